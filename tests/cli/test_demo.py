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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COPY_BYTES", 1 << 20)


@pytest.mark.usefixtures("small")
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
        assert set(stream["limits_GB_per_s"]) == {"reading the file", "copying memory"}
    for picture in facts["pictures"]:
        with Image.open(picture) as image:
            image.load()


@pytest.mark.usefixtures("small")
def test_the_printed_report_has_one_row_for_each_number_of_threads(tmp_path: Path) -> None:
    facts = demo.run(tmp_path, size="2 MiB", device="cpu")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path), "--size", "2 MiB", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    rows = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert rows == [str(max(1, stream["threads"])) for stream in facts["streams"]]
    assert "4 frames equal the truth" in result.stdout


@pytest.mark.usefixtures("small")
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


def test_a_rate_counts_the_bytes_that_passes_say_they_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 0.0, 4.0, 0.0, 2.0])
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(now))
    assert demo._median_rate(iter([1, 10**9, 10**9, 10**9])) == 0.5


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_as_a_limit_reads_every_byte_once(threads: int, tmp_path: Path) -> None:
    sizes = (1_000_003, 5)
    files = [str(tmp_path / f"{n}.bin") for n in sizes]
    for path, n in zip(files, sizes, strict=True):
        Path(path).write_bytes(np.random.default_rng(n).bytes(n))
    with demo.ThreadPoolExecutor(threads) as pool:
        assert next(demo._reads(files, pool, threads)) == sum(sizes)


def test_the_scene_of_the_demo_needs_its_corrections() -> None:
    scene = synth.Scene((2, 2), demo.SIG_SHAPE, seed=1, bits=12, dark=4.0, gain=0.05)
    assert scene.dark.std() > 0.5
    assert scene.gain.std() > 0.01
