"""Reports: that they are complete, that their numbers are what they are called, and that they say what they could not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from gpuio.bench import cache, data, report, text
from gpuio.bench.report import Request
from gpuio.errors import BackendUnavailable, DataSetException
from gpuio.io.backends import DirectBackend

pytestmark = pytest.mark.usefixtures("small")
FRAME = {"mib": 128 * 64 * 2, "npy": 64 * 96 * 2, "raw": 64 * 96 * 2, "hdf5": 64 * 96 * 2}


def measured(**request: Any) -> dict[str, Any]:
    """A report that keeps to the schema, and whose rates follow from its bytes and seconds."""
    found: dict[str, Any] = json.loads(json.dumps(report.run(Request(**{"repeats": 2, "device": "cpu", "size": 600_000, **request}))))
    jsonschema.Draft202012Validator(report.schema(), format_checker=jsonschema.FormatChecker()).validate(found)
    limits = {row["name"]: row for row in found["limits"]}
    for row in (*found["limits"], *found["stages"]):
        seconds, rate = row["seconds"], row["GB_per_s"]
        assert seconds["low"] <= seconds["median"] <= seconds["high"]
        assert rate["low"] <= rate["median"] <= rate["high"]
        assert rate["median"] * 1e9 * seconds["median"] == pytest.approx(row["bytes"])
    for row in found["stages"]:
        if row["limit"] is not None:
            assert row["limit_GB_per_s"] == limits[row["limit"]]["GB_per_s"]["median"]
            assert 0 < row["share"]["low"] <= row["share"]["median"] <= row["share"]["high"]
        if row["frames_per_s"] is not None and row["name"].startswith("stream"):
            assert row["frames_per_s"]["median"] * row["seconds"]["median"] == pytest.approx(found["data"]["frames"])
    way = {row["name"]: row["GB_per_s"]["median"] for row in found["stages"] if row["on_the_way"]}
    assert found["bottleneck"] == (min(way, key=way.__getitem__) if way else None) or found["settings"]["threads"] > 1
    assert all(line == line.rstrip() and "\n" not in line for line in text.lines(found))
    return found


def names(found: dict[str, Any], what: str = "stages") -> set[str]:
    return {row["name"] for row in found[what]}


def test_a_scan_is_made_measured_and_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = measured(format="mib", parameters={"kind": "R12", "sig_shape": (256, 256)}, size=2_200_000)
    assert (found["data"]["made"], found["data"]["path"], found["data"]["encoding"]) == (True, None, "mib_r12")
    assert found["data"]["frames"] == 16 and found["data"]["packed_bytes"] == 16 * 256 * 256 * 2
    assert names(found) >= {"storage, sequential", "host copy", "decode to native", "decode to float32", "stream to native",
                            "stream to float32"}
    assert names(found, "limits") >= {"page cache", "memory copy", "page cache to float32 tiles", "memory to float32 tiles"}
    assert found["bottleneck"] == "decode to float32"
    assert found["cache"]["asked"] == "warm"
    assert list(tmp_path.iterdir()) == []


def test_packed_chunks_have_a_stage_of_their_own_and_count_stored_bytes() -> None:
    found = measured(format="hdf5", parameters={"packing": "gzip", "chunks": (1, 4, 64, 96), "sig_shape": (64, 96)})
    assert "inflate" in names(found)
    stored = found["data"]["packed_bytes"]
    assert 0 < stored < found["data"]["frames"] * 64 * 96 * 2, "counts compress"
    rows = {row["name"]: row for row in found["stages"]}
    assert rows["stream to float32"]["bytes"] == stored
    assert 0 < rows["inflate"]["bytes"] <= stored
    assert rows["inflate"]["on_the_way"]


def test_frames_that_are_gathered_and_sparse_ones_can_be_measured(tmp_path: Path) -> None:
    fortran = tmp_path / "fortran.npy"
    np.save(fortran, np.asfortranarray(np.random.default_rng(5).integers(1, 99, (3, 5, 11, 7), dtype=np.uint16)))
    for request in ({"path": str(fortran)}, {"format": "raw_csr", "parameters": {"sig_shape": (16, 24)}, "size": 50_000}):
        found = measured(**request)
        assert "storage, as planned" not in names(found)
        assert "stream to float32" in names(found)


def test_of_a_large_file_only_a_part_is_used(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(6).integers(1, 99, (10, 13, 31, 37), dtype=np.uint16))
    found = measured(path=str(path), size=130 * 31 * 37 * 2 // 4)
    assert (found["data"]["frames"], found["data"]["frames_in_file"]) == (32, 130)
    assert found["data"]["packed_bytes"] == 32 * 31 * 37 * 2
    rows = {row["name"]: row for row in found["limits"]}
    assert rows["page cache"]["bytes"] == 32 * 31 * 37 * 2, "limits read the same bytes"


def test_threads_and_transport_are_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(7).integers(1, 99, (4, 8, 31, 37)).astype(">u2"))
    found = measured(path=str(path), threads=2, transport="buffered", repeats=1)
    assert (found["settings"]["threads"], found["settings"]["transport"], found["settings"]["repeats"]) == (2, "buffered", 1)


@pytest.mark.parametrize(("share", "confirmed", "words"), [
    (0.0, True, "cold: at most 0%"), (0.25, False, "NOT cold, although asked for: at most 25%"), (None, None, "cannot be told here"),
])
def test_cold_is_claimed_only_where_no_page_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | None,
                                                      confirmed: bool | None, words: str) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(cache, "resident_fraction", lambda path, places: share)
    monkeypatch.setattr(cache.os, "posix_fadvise", lambda fd, first, size, advice: dropped.append(advice))
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(8).integers(1, 99, (4, 8, 31, 37), dtype=np.uint16))
    found = measured(path=str(path), cold=True)
    assert (found["cache"]["asked"], found["cache"]["confirmed"], found["cache"]["resident"]) == ("cold", confirmed, share)
    assert words in found["cache"]["text"]
    assert any(words in note for note in found["notes"]) == (confirmed is not True)
    assert cache.os.POSIX_FADV_DONTNEED in dropped
    stages = {row["name"]: row for row in found["stages"]}
    assert "page cache" not in names(found, "limits")
    if DirectBackend().unavailable(str(path)) is None:
        assert stages["storage, sequential"]["limit"].startswith("storage")


def test_warm_files_are_brought_in_and_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(256)) * 100)
    shares = iter([0.5, 1.0, 1.0, 0.9, 0.97])
    monkeypatch.setattr(cache, "resident_fraction", lambda path, places: next(shares))
    filled: list[bool] = []
    files = cache.PageCache([str(path)], cold=False)
    monkeypatch.setattr(files, "fill", lambda: filled.append(True))
    files.prepare()         # half of it there: filled, then all
    assert (files.seen, files.confirmed, filled) == ([1.0], True, [True])
    files.prepare()         # all there, then, for whatever reason, not
    assert (files.worst, files.confirmed, filled) == (0.9, False, [True])
    assert str(files) == "NOT warm, although asked for: at least 90% of the places looked at were in the page cache"


def test_a_cache_that_was_never_looked_at_confirms_nothing(tmp_path: Path) -> None:
    assert cache.PageCache([], cold=True).confirmed is None


def test_where_unbuffered_reads_are_refused_storage_has_no_limit_and_the_report_says_so(tmp_path: Path,
                                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectBackend, "unavailable", lambda self, path=None: "refused here")
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(9).integers(1, 99, (4, 8, 31, 37), dtype=np.uint16))
    found = measured(path=str(path), cold=True)
    assert not any(name.startswith("storage") for name in names(found, "limits"))
    assert "storage was not measured: refused here" in found["notes"]
    assert next(row for row in found["stages"] if row["name"] == "storage, sequential")["limit"] is None


def test_made_scans_hold_counts_that_are_not_zero(tmp_path: Path) -> None:
    path, parameters = data.make(tmp_path, "mib", 600_000, {"kind": "U16"})
    frames = data.opened(path, "mib", "cpu", parameters, None)[...]
    assert frames.shape[-2:] == (256, 256) and len(frames.reshape(-1, 256, 256)) == 16      # the fewest: one line
    assert 0 < frames.min() < frames.max() < 64
    assert 19 < frames.mean() < 21
    assert len({frame.tobytes() for frame in frames.reshape(-1, 256, 256)}) == 16, "no two alike"


def test_a_counter_of_one_bit_gets_noughts_and_ones(tmp_path: Path) -> None:
    path, parameters = data.make(tmp_path, "mib", 100_000, {"kind": "R1"})
    frames = data.opened(path, "mib", "cpu", parameters, None)[...]
    assert set(np.unique(frames).tolist()) == {0, 1}
    assert 0.3 < frames.mean() < 0.7


def test_a_disk_that_is_too_small_is_noticed_before_anything_large_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(OSError, match=r"a scan of 1\d* MiB is too large for the 1 MiB that are free"):
        data.make(tmp_path, "npy", 10 << 20, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("request_", "error", "match"), [
    ({"transport": "pigeon"}, DataSetException, "transport 'pigeon' is unknown; expected one of"),
    ({"format": "betamax", "path": None}, DataSetException, "betamax"),
    ({"size": "plenty"}, ValueError, "'plenty' is not understood"),
    ({"device": "cuda:7"}, BackendUnavailable, "."),
])
def test_what_cannot_be_done_is_said(tmp_path: Path, request_: dict[str, Any], error: type[Exception], match: str) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.ones((2, 3, 5, 7), np.uint16))
    with pytest.raises(error, match=match):
        report.run(Request(**{"path": str(path), **request_}))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report.schema())
