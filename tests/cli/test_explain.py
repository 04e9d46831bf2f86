"""``gpuio explain`` and ``gpuio warmup`` as a user sees them, and the word about compiling."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpuio import cli, engine, explain, warmup
from gpuio.cli import main


@pytest.fixture
def npy(tmp_path: Path) -> str:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(20).integers(0, 4096, (3, 5, 11, 7)).astype(">u2"))
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), prog_name="gpuio")


def test_explain_tells_device_transport_plan_and_bottleneck(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "why_no_cuda", lambda number: "nothing to decode with")
    result = run("explain", npy, "--device", "cpu", "--dtype", "float32", "--memory", "1 MiB", "--threads", "2")
    assert result.exit_code == 0, result.stderr
    lines = {line[:14].strip(): line[14:] for line in result.stdout.splitlines()}
    assert lines["file"] == npy
    assert lines["frames"] == "15 of 11 x 7, swap uint16, as float32"
    assert (lines["device"], lines["not cuda"]) == ("cpu", "nothing to decode with")
    assert lines["memory"].endswith(" of 1 MiB")
    assert lines["threads"].endswith("2 decode ahead")
    assert {"transport", "not gds", "not direct", "reading", "stage", "expected"} <= lines.keys()


def test_explain_as_json_is_one_value_with_the_same_facts(npy: str) -> None:
    result = run("explain", npy, "--json", "--device", "cpu")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert (found["path"], found["frames"], found["extents"], found["needed_bytes"]) == (npy, 15, 1, 15 * 77 * 2)
    assert found["why_not"]["gds"][0] == "pixels are decoded on the CPU"
    assert found["measured"] == {}


def test_explain_measures_when_asked_to(npy: str) -> None:
    measured = json.loads(run("explain", npy, "--json", "--measure", "--device", "cpu").stdout)["measured"]
    assert {"memory copy", "decoding on the CPU"} <= measured.keys()
    assert min(measured.values()) > 0


@pytest.mark.parametrize(("args", "code"), [
    (["explain"], 2), (["explain", "x", "--threads", "-1"], 2), (["warmup", "x", "--formats", "mib"], 2),
    (["warmup", "--formats", "betamax"], 1), (["warmup", "--formats", "mib", "--device", "abacus"], 1),
])
def test_a_wrong_command_line_is_one_line(args: list[str], code: int) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    line, = result.stderr.splitlines()
    assert line.startswith("error: ")


def test_an_unknown_dtype_and_a_small_budget_are_one_line(npy: str) -> None:
    assert "'abacus' is not a dtype" in run("explain", npy, "--dtype", "abacus").stderr
    assert "bytes are needed" in run("explain", npy, "--memory", "100").stderr


def test_warming_up_for_a_file_lists_what_it_is_ready_for(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "devices", lambda: ["cpu"])
    result = run("warmup", npy)
    assert result.exit_code == 0, result.stderr
    *rows, last = result.stdout.splitlines()
    assert [" ".join(row.split()[:5]) for row in rows] == [
        f"cpu swap uint16 to {use}" for use in ("uint16", "float32", "float32", "sums")]
    assert "with dark, gain and repair" in rows[2]
    assert last.startswith("ready after ") and last.endswith(" functions were compiled now")


def test_warming_up_for_formats_as_json_is_one_value() -> None:
    result = run("warmup", "--formats", "npy", "--device", "cpu", "--json")
    found = json.loads(result.stdout)
    assert {(row["device"], row["pixels"]) for row in found["ready"]} == {
        ("cpu", "uint8"), ("cpu", "uint16"), ("cpu", "uint32"), ("cpu", "float32")}
    assert found["seconds"] > 0


def compiling(seconds: float, times: int = 1) -> None:
    with cli.patience():
        for _ in range(times):
            with engine.on_compile("a decoder"):
                time.sleep(seconds)


@pytest.mark.parametrize(("terminal", "seconds", "lines"), [(True, 0.3, 1), (True, 0.0, 0), (False, 0.3, 0)])
def test_compiling_is_told_once_to_who_looks_and_waits(
        terminal: bool, seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gpuio.cli._group.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    before: Any = engine.on_compile
    compiling(seconds, times=2)
    assert engine.on_compile is before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["compiling for this machine; it is kept, later runs start at once"] * lines
