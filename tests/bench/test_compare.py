"""``python -m benchmarks.compare``: shares of the limit decide, never seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare


def bench(**shares: float | tuple[float, float | None] | None) -> dict[str, Any]:
    """A report of ``gpuio bench`` as far as it is looked at: by stage the share, or the share and that per core."""
    pairs = {name: share if isinstance(share, tuple) else (share, None) for name, share in shares.items()}
    rows = [{"name": name, "share": share and {"median": share, "low": 0.01, "high": 9.0}, "share_per_core": per_core}
            for name, (share, per_core) in pairs.items()]
    return {"schema": "gpuio-bench-1", "stages": rows, "data": {"format": "mib", "encoding": "mib_r12"}, "cache": {"asked": "warm"},
            "settings": {"device": "cpu"}}


def benchmarks(seconds: float, **shares: float) -> dict[str, Any]:
    """What pytest-benchmark writes, as far as it is looked at."""
    return {"benchmarks": [{"name": "test_io", "stats": {"median": seconds}, "extra_info": {"shares": shares}},
                           {"name": "test_other", "stats": {"median": 1.0}, "extra_info": {}}]}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command on two reports: exit code, stdout, stderr."""
    def call(old: Any, new: Any, *options: str) -> tuple[int, str, str]:
        for name, report in (("old", old), ("new", new)):
            (tmp_path / name).write_text(report if isinstance(report, str) else json.dumps(report))
        code = compare.main([str(tmp_path / "old"), str(tmp_path / "new"), *options])
        return (code, *capsys.readouterr())

    return call


def test_a_smaller_share_is_a_regression(run: Any) -> None:
    code, out, _ = run(bench(stream=0.8, decode=0.5), bench(stream=0.6, decode=0.5))
    assert code == 1
    assert "mib mib_r12 warm on cpu: stream" in out and "slower" in out and "decode" not in out
    assert "2 compared, 1 slower by more than 20% of their share" in out


def test_seconds_do_not_count(run: Any) -> None:
    assert run(benchmarks(1.0, mmap=0.7), benchmarks(100.0, mmap=0.69))[0] == 0
    assert run(benchmarks(1.0, mmap=0.7), benchmarks(0.01, mmap=0.5))[0] == 1


def test_the_share_per_core_goes_before_that_by_the_clock(run: Any) -> None:
    assert run(bench(stream=(0.8, 0.9)), bench(stream=(0.1, 0.88)))[0] == 0
    assert run(bench(stream=(0.8, 0.9)), bench(stream=(0.8, 0.6)))[0] == 1


def test_what_became_faster_is_told_and_no_failure(run: Any) -> None:
    code, out, _ = run(bench(stream=0.4), bench(stream=0.8))
    assert code == 0 and "faster" in out and "2.00" in out


def test_the_tolerance_can_be_chosen_and_everything_shown(run: Any) -> None:
    old, new = bench(stream=0.80, decode=0.5), bench(stream=0.75, decode=0.5)
    assert run(old, new)[0] == 0
    assert run(old, new, "--tolerance", "0.05")[0] == 1
    assert "decode" in run(old, new, "--all")[1]


def test_what_is_gone_is_named_and_what_has_no_share_is_left_out(run: Any) -> None:
    code, out, _ = run(bench(stream=0.8, inflate=None, old=0.5), bench(stream=0.8, inflate=None, new=0.1))
    assert code == 0 and "old: mib mib_r12 warm on cpu: old" in out and "inflate" not in out
    assert "1 compared" in out


@pytest.mark.parametrize(("old", "words"), [
    ("{", "old: "), ("[]", "old: "), ({"something": "else"}, "neither a report of gpuio bench nor one of pytest-benchmark"),
    (bench(other=0.5), "nothing in common"), ({"schema": "gpuio-bench-1"}, "old: "),
])
def test_files_that_cannot_be_compared_are_one_line(run: Any, old: Any, words: str) -> None:
    code, out, err = run(old, bench(stream=0.5))
    assert code == 2 and out == "" and words in err and err.count("\n") == 1 and err.startswith("error: ")


def test_a_real_report_is_understood(tmp_path: Path) -> None:
    import numpy as np

    from gpuio.bench import report

    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(4).integers(1, 99, (3, 5, 11, 7), dtype=np.uint16))
    found = compare.shares(report.run(report.Request(path=str(path), device="cpu", repeats=1)))
    assert "npy plain warm on cpu: stream to float32" in found
    assert all(share > 0 for share in found.values())
