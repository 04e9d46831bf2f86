"""Rounds, medians and quartiles, by a clock that the test turns; and that limits move the bytes they are said to move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpuio.bench import limits, timing
from gpuio.bench.subject import Range
from gpuio.bench.timing import Candidate, Spread, interleaved
from gpuio.io.backends import DirectBackend


def test_candidates_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, told = 0.0, [], []
    seconds = {"a": iter([100, 1, 2, 3, 10]), "b": iter([100, 8, 4, 6, 2])}

    def work(name: str) -> Candidate:
        def before() -> None:
            nonlocal now
            calls.append(f"before {name}")
            now += 1000         # not timed

        def run() -> None:
            nonlocal now
            calls.append(name)
            now += next(seconds[name])

        return Candidate(run, before)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    monkeypatch.setattr(timing.time, "process_time", lambda: now / 2)
    found = interleaved({"a": work("a"), "b": work("b")}, 4, progress=lambda *state: told.append(state))
    rounds = ["".join(calls[i:i + 4]) for i in range(0, 20, 4)]
    assert set(rounds) == {"before aabefore bb", "before bbbefore aa"}, "each once a round, in another order"
    assert [(done, total) for done, total, _ in told] == [(i, 10) for i in range(10)]
    assert [name for _, _, name in told] == calls[1::2]
    assert found["a"].wall == Spread(2.5, 1.75, 4.75)
    assert found["b"].cpu == Spread(2.5, 1.75, 3.25)


def test_what_is_compared_runs_between_two_runs_of_the_other_and_is_judged_by_those(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, []
    speed = 1.0         # of a machine that slows down with every run

    def work(name: str, seconds: float, beside: str | None = None) -> Candidate:
        def run() -> None:
            nonlocal now, speed
            calls.append(name)
            now += seconds / speed
            speed /= 1.5

        return Candidate(run, beside=beside)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    monkeypatch.setattr(timing.time, "process_time", lambda: now / 4)
    candidates = {"limit": work("limit", 6), "a": work("a", 12, "limit"), "b": work("b", 3, "limit"), "other": work("other", 1)}
    told: list[tuple[int, int]] = []
    found = interleaved(candidates, 3, progress=lambda done, total, name: told.append((done, total)))
    rounds = [" ".join(calls[i:i + 6]) for i in range(0, 24, 6)]
    groups = {"limit a limit b limit", "limit b limit a limit"}
    assert set(rounds) <= {f"{group} other" for group in groups} | {f"other {group}" for group in groups}
    assert told == [(i, 24) for i in range(24)]
    mean = (1 / 1.5 + 1.5) / 2          # of what ran a step sooner and a step later
    for name, seconds in (("a", 12), ("b", 3)):
        ratio = found[name].ratio
        assert ratio is not None
        for spread in (ratio.wall, ratio.cpu):
            assert [spread.median, spread.low, spread.high] == pytest.approx([6 / seconds * mean] * 3)
    assert found["limit"].ratio is None and found["other"].ratio is None
    assert found["a"].wall.high > 2 * found["a"].wall.low, "alone it says little"


def test_the_slow_quartile_of_a_duration_is_the_low_one_of_a_rate() -> None:
    assert Spread(2.0, 1.0, 4.0).rate(8.0) == Spread(4.0, 2.0, 8.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bytes"
    path.write_bytes(np.random.default_rng(3).integers(0, 256, 1_234_567, dtype=np.uint8).tobytes())
    return path


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_covers_every_byte_of_every_range_once(file: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(limits, "CACHED_BYTES", 10_007)
    seen: list[int] = []
    limits.reading([Range(str(file), 7, 700_001), Range(str(file), 0, 1_234_567)], threads=threads, after=lambda: seen.append)
    assert sum(seen) == 700_001 - 7 + 1_234_567


def test_reading_past_the_page_cache_aligns_outwards(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := DirectBackend().unavailable(str(file))) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(limits, "DIRECT_BYTES", 65536)
    seen: list[int] = []
    limits.reading([Range(str(file), 5000, 1_234_567)], threads=2, direct=True, after=lambda: seen.append)
    assert sum(seen) == 1_234_567 - 4096


def test_tiles_are_written_as_often_as_pixels_need(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[np.ndarray] = []

    def touched(n_bytes: int) -> np.ndarray:
        tiles.append(np.zeros(n_bytes, np.uint8))
        return tiles[-1]

    monkeypatch.setattr(limits, "TILE_BYTES", 1000)
    monkeypatch.setattr(limits, "_touched", touched)
    write = limits.writing(2.5)()
    write(300)
    assert (tiles[0] == 1).sum() == 750
    tiles[0][:] = 0
    write(300)                  # goes on where it was, and from the start
    assert tiles[0].tolist() == [1] * 500 + [0] * 250 + [1] * 250
    source = np.arange(5, 205, dtype=np.uint8)
    limits.from_memory(source, 2.0, 1)
    assert tiles[1].tolist() == source.tolist() + [1] * 200 + [0] * 600
