"""The demo on a small scan: that it checks what it shows, and that its numbers are what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import gpuio
from gpuio import demo, synth
from gpuio.cli import main


def test_the_demo_reports_what_it_did(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "out"), "--size", "5 MiB", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    assert (facts["nav_shape"], facts["sig_shape"], facts["device"]) == ([3, 3], [512, 512], "cpu")
    assert facts["bytes"] == 9 * (512 * 512 * 2 + 768) == (tmp_path / "out" / "scan.mib").stat().st_size
    assert facts["frames_checked"] == 9
    for stream in facts["streams"]:
        assert stream["GB_per_s"] > 0
        assert 0 < stream["first_tile_s"] < facts["bytes"] / 1e9 / stream["GB_per_s"] * 10
        assert min(stream["limits_GB_per_s"].values()) > 0
        assert set(stream["limits_GB_per_s"]) == {"reading the file", "reading and writing tiles"}
    for picture in facts["pictures"]:
        with Image.open(picture) as image:
            image.load()


def test_the_printed_report_has_one_row_for_each_number_of_threads(tmp_path: Path) -> None:
    facts = demo.run(tmp_path, size="2 MiB", device="cpu")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--size", "2 MiB", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert rows == [str(max(1, stream["threads"])) for stream in facts["streams"]]
    assert "4 frames equal the truth" in result.stdout


def test_a_frame_that_differs_from_the_truth_stops_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = gpuio.MIBDataSet.read

    def wrong(self: gpuio.MIBDataSet, nav: np.ndarray, **kwargs: object) -> np.ndarray:
        data = read(self, nav, **kwargs)
        data[2, 100, 101] += 1
        return data

    monkeypatch.setattr(gpuio.MIBDataSet, "read", wrong)
    with pytest.raises(RuntimeError, match="frame 2 differs from what was written in 1 pixels"):
        demo.run(tmp_path, size="2 MiB", device="cpu")


def test_a_device_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(gpuio.BackendUnavailable):
        demo.run(tmp_path / "out", size="2 MiB", device="cuda:99")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_limits_move_the_bytes_of_the_scan_and_of_its_tiles(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = gpuio.open(synth.write("mib", tmp_path / "scan.mib", synth.Scene((2, 2), (512, 512), seed=1), kind="R12", layout="2x2")[0],
                    device="cpu")
    n_bytes, seen = Path(ds.files[0]).stat().st_size, []
    monkeypatch.setattr(demo, "writing", lambda ratio: lambda: lambda size: seen.append((size, ratio)))
    works = demo._limits(ds, n_bytes, threads)
    assert list(works) == ["reading the file", "reading and writing tiles"]
    assert {size for size, _ in works.values()} == {n_bytes}
    works["reading the file"][1]()
    assert seen == []
    works["reading and writing tiles"][1]()
    assert sum(size for size, _ in seen) == n_bytes
    assert sum(size * ratio for size, ratio in seen) == pytest.approx(4 * 4 * 512 * 512)


def test_the_scene_of_the_demo_needs_its_corrections() -> None:
    scene = synth.Scene((2, 2), demo.SIG_SHAPE, seed=1, bits=12, dark=4.0, gain=0.05)
    assert scene.dark.std() > 0.5
    assert scene.gain.std() > 0.01
