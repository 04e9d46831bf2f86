"""Other settings and other libraries: what is tried, when it is recommended, and that all read the same pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from gpuio import config
from gpuio.bench import peers, report, sweep, text
from gpuio.bench.report import Request
from gpuio.bench.timing import Spread, Timing
from gpuio.config import StreamSettings

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def npy(tmp_path: Path) -> str:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(41).integers(1, 4096, (5, 7, 31, 37), dtype=np.uint16))
    return str(path)


def subject(path: str, **request: Any) -> Any:
    return report._subject(Request(path=path, device="cpu", **request), path, "npy", {}, 1 << 30)


def timing(median: float, low: float | None = None, high: float | None = None) -> Timing:
    return Timing(Spread(median, median if low is None else low, median if high is None else high), Spread(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("timings", "chosen"), [
    ({None: timing(10), 1: timing(9), 2: timing(8)}, 2),
    ({None: timing(10), 1: timing(9.6)}, None),                         # too little
    ({None: timing(10), 1: timing(5, 4, 11)}, None),                    # noise
    ({None: timing(10, 5, 20), 1: timing(9, 8, 9.9)}, 1),
    ({None: timing(3), 1: timing(9)}, None),
])
def test_a_value_is_taken_if_it_is_worth_it(timings: dict[Any, Timing], chosen: Any) -> None:
    assert sweep._choice(timings) == chosen


def test_what_was_found_is_kept_for_the_next_setting_and_confirmed(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[Any, StreamSettings]] = []

    def timed(subject: Any, ways: dict[Any, StreamSettings], repeats: int, progress: Any) -> dict[Any, Timing]:
        seen.append(ways)
        return {value: timing(5 if settings.threads == 2 else 10) for value, settings in ways.items()}

    monkeypatch.setattr(sweep, "_timed", timed)
    found = sweep.sweep(subject(npy), 3, lambda *_: None)
    assert found["recommended"] == {"threads": 2} and found["gain"] == 2.0
    after = seen[[{s.threads for s in ways.values()} == {2} for ways in seen].index(True)]
    assert {s.tile_bytes for s in after.values()} > {None}
    assert seen[-1] == {None: StreamSettings(), "recommended": StreamSettings(threads=2)}


def test_what_the_last_round_does_not_confirm_is_not_recommended(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_timed", lambda subject, ways, repeats, progress: {
        value: timing(10 if "recommended" in ways or value is None else 5) for value in ways})
    found = sweep.sweep(subject(npy), 3, lambda *_: None)
    assert (found["recommended"], found["gain"]) == ({}, 1.0)


def test_what_was_asked_for_is_not_tried(npy: str) -> None:
    assert list(sweep.axes(subject(npy))) [:3] == ["transport", "threads", "tile_bytes"]
    assert set(sweep.axes(subject(npy, threads=0, depth=3, transport="mmap"))) == set()


def test_streams_see_the_settings_that_are_tried_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUIO_MEMORY", "5 MiB")
    config.forget()
    before = dict(os.environ)
    with pytest.raises(KeyError), sweep.configured(StreamSettings(threads=3, transport="mmap")):
        assert config.stream() == StreamSettings(threads=3, transport="mmap")
        raise KeyError
    assert dict(os.environ) == before
    assert config.stream() == StreamSettings(memory=5 << 20)
    monkeypatch.delenv("GPUIO_MEMORY")
    config.forget()


def test_a_report_with_peers_and_sweep_keeps_to_the_schema(npy: str) -> None:
    found = report.run(Request(path=npy, device="cpu", repeats=1, peers=True, sweep=True, size=1000))
    jsonschema.Draft202012Validator(report.schema()).validate(found)
    assert found["data"]["frames"] == 35, "peers read whole files"
    rows = {row["name"]: row for row in found["peers"]}
    assert list(rows) == ["gpuio", "LiberTEM", "RosettaSciIO", "ncempy", "h5py", "NumPy"]
    assert rows["gpuio"]["times_faster"] == 1 and rows["NumPy"]["GB_per_s"]["median"] > 0
    assert rows["h5py"]["why_not"] == "has no reader of npy" and rows["h5py"]["GB_per_s"] is None
    assert {row["key"] for row in found["sweep"]["tried"]} >= {"transport", "threads", "tile_bytes"}
    titles = [title for title, _, _ in text.further(found)]
    assert titles[:2] == ["The same file through other libraries, float32, one thread", "Other settings, stream to float32"]


@pytest.mark.parametrize(("format", "parameters", "expected"), [
    ("mib", {"kind": "U16"}, {"LiberTEM", "RosettaSciIO"}), ("mrc", {"mode": 6}, {"LiberTEM", "RosettaSciIO", "ncempy"}),
    ("hdf5", {"chunks": (1, 3, 256, 256), "packing": "gzip"}, {"h5py"}), ("raw", {"dtype": "<u2"}, {"NumPy", "LiberTEM"}),
    ("ser", {"dtype": "<u2"}, {"ncempy"}),
])
def test_other_libraries_read_the_same_pixels(format: str, parameters: dict[str, Any], expected: set[str]) -> None:
    found = report.run(Request(format=format, parameters=parameters, device="cpu", repeats=1, peers=True, size=100_000))
    measured = {row["name"] for row in found["peers"] if row["why_not"] is None}
    assert measured >= expected | {"gpuio"}, [row for row in found["peers"] if row["why_not"] is not None]


def test_who_reads_other_pixels_is_not_measured(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers._LIBRARIES, "NumPy", ("numpy", lambda subject, parameters: lambda: iter([np.ones((35, 31, 37), np.float32)])))
    monkeypatch.setitem(peers._LIBRARIES, "LiberTEM", ("no-such-package", peers._LIBRARIES["LiberTEM"][1]))
    rows = {row["name"]: row for row in peers.peers(subject(npy), {}, 1, lambda *_: None)}
    assert rows["NumPy"]["why_not"].startswith("reads other pixels: their sum is 40145, not ")
    assert (rows["LiberTEM"]["why_not"], rows["LiberTEM"]["version"]) == ("not installed", None)
