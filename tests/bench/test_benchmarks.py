"""What ``pytest benchmarks`` records, so that ``python -m benchmarks.compare`` has something to look at: of every benchmark."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, measure

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_an_entry_that_records_shares(name: str) -> None:
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
    entries = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert entries
    for entry in entries:
        calls = [node for node in ast.walk(entry) if isinstance(node, ast.Call) and ast.unparse(node.func) == "record"]
        assert len(calls) == 1
        shares = calls[0].args[3]
        assert isinstance(shares, (ast.List, ast.ListComp)) and (isinstance(shares, ast.ListComp) or shares.elts)


def test_what_is_recorded_has_the_names_of_rows_and_shares() -> None:
    class Benchmark:
        def __init__(self) -> None:
            self.extra_info: dict[str, Any] = {}
            self.rounds: list[int] = []

        def pedantic(self, run: Any, rounds: int) -> None:
            self.rounds.append(rounds)
            run()

    benchmark = Benchmark()
    rows: list[dict[str, object]] = [{"case": "a", "ratio": 0.5, "MB/s": 7.0}, {"case": "b", "ratio": 2.0, "MB/s": 9.0}]
    measure.record(benchmark, lambda: rows, "case", ["ratio"])
    assert benchmark.rounds == [1]
    assert benchmark.extra_info["shares"] == {"a, ratio": 0.5, "b, ratio": 2.0}
    assert benchmark.extra_info["rows"][1]["MB/s"] == 9.0
    with pytest.raises(ValueError, match="two rows are called a"):
        measure.record(benchmark, lambda: [{"case": "a", "ratio": 0.5}, {"case": "a", "ratio": 2.0}], "case", ["ratio"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What two runs of two small benchmarks have written."""
    folder = tmp_path_factory.mktemp("runs")
    without_workers = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}    # they record nothing
    found = []
    for name in ("old.json", "new.json"):
        found.append(folder / name)
        arguments = ["-m", "pytest", "benchmarks/bench_open.py", "benchmarks/bench_roi.py", "-p", "no:cacheprovider"]
        subprocess.run([sys.executable, *arguments, "--benchmark-json", str(found[-1])], cwd=ROOT, check=True, capture_output=True,
                       env={**without_workers, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)})
    return found


def test_two_real_runs_are_compared_share_by_share(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*map(str, runs), "--tolerance", "0.99", "--all"]) == 0
    said = capsys.readouterr().out
    shares = compare.read(str(runs[0]))
    assert len(shares) > 10 and {name.partition(":")[0] for name in shares} == {"test_open", "test_roi"}
    assert f"{len(shares)} compared, 0 slower by more than 99% of their share" in said
    assert all(name in said for name in shares)


def test_a_real_run_that_has_become_slower_is_noticed(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(runs[0].read_text())
    slowed = next(one for one in report["benchmarks"] if one["name"] == "test_open")["extra_info"]["shares"]
    name = next(iter(slowed))
    slowed[name] *= 0.5
    (tmp_path / "new.json").write_text(json.dumps(report))
    assert compare.main([str(runs[0]), str(tmp_path / "new.json")]) == 1
    said = capsys.readouterr().out
    assert f"test_open: {name}" in said and "1 slower by more than 20% of their share" in said
    assert compare.main([str(runs[0]), str(runs[0])]) == 0
