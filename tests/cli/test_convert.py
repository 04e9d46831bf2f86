"""``gpuio convert``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gpuio.cli import main


@pytest.fixture
def scan(tmp_path):
    values = np.random.default_rng(83).integers(0, 65536, (5, 3, 12, 10), dtype="u2")
    np.save(tmp_path / "scan.npy", values)
    return tmp_path / "scan.npy", values


def run(*arguments):
    return CliRunner().invoke(main, ["convert", "--device", "cpu", *map(str, arguments)])


def test_pixels_are_cropped_binned_and_converted(scan, tmp_path):
    path, values = scan
    out = tmp_path / "out.npy"
    result = run(path, out, "--crop", "2:,1:9", "--bin-sig", "5,4", "--dtype", "float32", "--verify", "--json",
                 "--preview", tmp_path / "p.png")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["sig_shape"] == [2, 2] and said["dtype"] == "float32" and said["verified"] and said["bytes"] == out.stat().st_size
    expected = values[:, :, 2:, 1:9].reshape(5, 3, 2, 5, 2, 4).sum(axis=(3, 5), dtype="u8").astype("f4")
    np.testing.assert_array_equal(np.load(out), expected)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_files_are_replaced_by_force_alone(scan, tmp_path):
    path, _ = scan
    out = tmp_path / "out.h5"
    assert "read back and compared" in run(path, out, "--compression", "bitshuffle", "--verify").output
    refused = run(path, out)
    assert refused.exit_code == 1 and "out.h5: already exists; --force replaces it" in refused.output and "Traceback" not in refused.output
    assert run(path, out, "--force").exit_code == 0


@pytest.mark.parametrize(("arguments", "said"), [
    (["--crop", "1"], "is not of the form Y0:Y1,X0:X1"), (["--crop", "-:2,:"], "is not of the form"),
    (["--bin-sig", "a"], "is not a number"),
    (["--dtype", "nonsense"], "'nonsense' is not a dtype"), (["--dtype", "object"], "'object' is not a dtype"),
    (["--preview", "p.jpg"], "p.jpg is not a .png"), (["--compression", "zip"], "is not one of"),
])
def test_options_that_are_wrong_are_named(scan, tmp_path, arguments, said):
    result = run(scan[0], tmp_path / "out.npy", *arguments)
    assert result.exit_code == 2 and said in result.output


def test_reductions_that_do_not_fit_are_an_error(scan, tmp_path):
    result = run(scan[0], tmp_path / "out.npy", "--bin-sig", "11")
    assert result.exit_code == 1 and "error: bin_sig (11, 11) does not fit" in result.output and not (tmp_path / "out.npy").exists()


def test_a_preview_that_cannot_be_written_is_noticed_before_anything_is_read(scan, tmp_path):
    result = run(scan[0], tmp_path / "out.npy", "--preview", tmp_path / "nowhere" / "p.png")
    assert result.exit_code == 1 and f"error: {tmp_path / 'nowhere' / 'p.png'}: No such file or directory" in result.output
    assert not (tmp_path / "out.npy").exists()
