"""``gpuio bench`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpuio.bench import report
from gpuio.cli import main


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["bench", *args], prog_name="gpuio")


@pytest.fixture
def npy(tmp_path: Path) -> str:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(20).integers(1, 4096, (3, 5, 11, 7)).astype(">u2"))
    return str(path)


def test_tables_go_to_stdout_and_files_hold_the_rest(npy: str, tmp_path: Path) -> None:
    as_json, page = tmp_path / "out.json", tmp_path / "out.html"
    result = run(npy, "--device", "cpu", "--repeats", "1", "--json", str(as_json), "--html", str(page))
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    found = json.loads(as_json.read_text())
    assert found["schema"] == report.SCHEMA and found["data"]["path"] == npy
    for row in (*found["limits"], *found["stages"]):
        assert any(line.startswith(row["name"] + " ") for line in result.stdout.splitlines())
    assert npy in result.stdout and npy in page.read_text()


def test_a_dash_puts_json_on_stdout_and_nothing_else(npy: str) -> None:
    assert json.loads(run(npy, "--device", "cpu", "--repeats", "1", "--json", "-").stdout)["data"]["frames"] == 15


@pytest.mark.parametrize(("args", "code", "words"), [
    (["nowhere.npy"], 1, "nowhere.npy"),
    (["{npy}", "--transport", "pigeon"], 1, "'pigeon' is unknown"),
    (["{npy}", "--size", "plenty"], 1, "'plenty'"),
    (["{npy}", "--repeats", "0"], 2, "--repeats"),
    (["--format", "betamax", "--size", "1 MiB"], 1, "'betamax' cannot be written"),
    (["--format", "mib", "-p", "kind=R7", "--size", "1 MiB"], 1, "R7"),
    (["--format", "mib", "-p", "colour=red", "--size", "1 MiB"], 1, "colour"),
    (["{npy}", "--device", "abacus"], 1, "abacus"),
    (["{npy}", "--repeats", "1", "--json", "{npy}/out.json"], 1, "out.json"),
])
def test_errors_are_one_line(npy: str, args: list[str], code: int, words: str) -> None:
    result = run(*(word.format(npy=npy) for word in args))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "fault of gpuio" not in result.stderr
    assert words in result.stderr


def test_a_recommendation_is_written_where_streams_look(npy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuio import config

    file = tmp_path / "conf" / "gpuio.toml"
    monkeypatch.setattr(report, "sweep", lambda subject, repeats, progress: {"tried": [], "recommended": {"threads": 2}, "gain": 1.5})
    assert run(npy, "--write-config").exit_code == 2
    result = run(npy, "--device", "cpu", "--repeats", "1", "--sweep", "--write-config")     # GPUIO_CONFIG is empty
    assert result.exit_code == 1 and "GPUIO_CONFIG is empty" in result.stderr
    monkeypatch.setattr(config, "path", lambda: str(file))
    result = run(npy, "--device", "cpu", "--repeats", "1", "--sweep", "--write-config")
    assert result.exit_code == 0 and result.stderr == f"written to {file}\n"
    assert file.read_text() == "[stream]\nthreads = 2\n"
    monkeypatch.undo()
    named = tmp_path / "named.toml"
    monkeypatch.setenv("GPUIO_CONFIG", str(named))
    config.forget()
    monkeypatch.setattr(report, "sweep", lambda subject, repeats, progress: {"tried": [], "recommended": {"threads": 3}, "gain": 1.5})
    result = run(npy, "--device", "cpu", "--repeats", "1", "--sweep", "--write-config")         # which is not there yet
    assert result.exit_code == 0 and named.read_text() == "[stream]\nthreads = 3\n", result.stderr
    monkeypatch.setattr(report, "sweep", lambda subject, repeats, progress: {"tried": [], "recommended": {}, "gain": 1.0})
    result = run(npy, "--device", "cpu", "--repeats", "1", "--sweep", "--write-config")
    assert result.stderr == "no setting was written: what gpuio chooses by itself is as fast\n"
