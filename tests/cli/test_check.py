"""``gpuio check``: what is printed, as text and as JSON, and the exit code."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gpuio import synth
from gpuio.cli import main

NAV, SIG = (5, 7), (3, 11)
STRIDE = 384 + 2 * 33


@pytest.fixture
def scan(tmp_path: pathlib.Path) -> str:
    frames = np.random.default_rng(6).integers(1, 4096, (35, *SIG)).astype(np.uint16)
    synth.write("mib", tmp_path / "scan.mib", [frames], nav_shape=NAV, sig_shape=SIG, kind="U16", line_pause_s=0.0004)
    return str(tmp_path / "scan.mib")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["check", *args], prog_name="gpuio")


def test_an_undamaged_scan_is_said_to_be_so(scan: str) -> None:
    result = run(scan)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{scan}: mib, 1 file, 35 frames, 35 frame headers read; no errors, no warnings",
        "scan, the best guess first",
        "  -p nav_shape=5,7 -p sync_offset=0  as the files say; a pause of 400 µs before 4 of 4 lines of 7 frames; 35 = 5 x 7 frames",
    ]


def test_errors_are_named_and_give_exit_code_1(scan: str) -> None:
    os.truncate(scan, 34 * STRIDE + 100)
    result = run(scan)
    assert (result.exit_code, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("; 2 errors")
    assert f"error: {scan}: ends inside a frame: 100 of {STRIDE} bytes of frame 34 are there" in lines
    assert sum(line.startswith("note: ") for line in lines) == 2


def test_warnings_alone_give_exit_code_0(scan: str) -> None:
    hdr = pathlib.Path(scan).with_suffix(".hdr")
    hdr.write_bytes(hdr.read_bytes().replace(b"ScanY:\t5", b"ScanY:\t4"))
    result = run(scan)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].endswith("; 1 warning")
    assert any(line.startswith(f"warning: {scan}: the scan of 4 x 7 has 28 positions") for line in result.stdout.splitlines())


def test_json_is_one_value_with_the_same_facts(scan: str) -> None:
    os.truncate(scan, 34 * STRIDE + 100)
    result = run(scan, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    facts = json.loads(result.stdout)
    assert (facts["format"], facts["image_count"], facts["headers_read"], facts["files"]) == ("mib", 34, 34, [scan])
    assert (facts["is_clean"], facts["errors"], facts["warnings"]) == (False, 2, 0)
    assert facts["findings"][0] == {
        "severity": "error", "where": scan, "what": f"ends inside a frame: 100 of {STRIDE} bytes of frame 34 are there",
        "evidence": {"bytes_left": 100, "frame_bytes": STRIDE, "frame": 34}}
    assert (facts["candidates"][0]["nav_shape"], facts["candidates"][0]["sync_offset"]) == ([5, 7], 0)


def test_a_file_without_header_is_described_by_parameters(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(np.random.default_rng(1).bytes(6 * 33))
    assert run(str(path), "-f", "raw", "-p", "dtype=u1", "-p", "sig_shape=3,11").exit_code == 0
    result = run(str(path), "-f", "raw", "-p", "dtype=u1", "-p", "sig_shape=4,11")
    assert result.exit_code == 1
    assert "22 of 44 bytes" in result.stdout


@pytest.mark.parametrize("args,message", [
    (("{folder}/nowhere.mib",), "nowhere.mib: No such file or directory"),
    (("{folder}/noise.dat",), "no format recognises this file"),
    (("{folder}/noise.dat", "-f", "raw"), "the format needs 'dtype'"),
    (("{folder}",), "folder"),
], ids=["missing", "unknown", "parameter missing", "folder"])
def test_what_cannot_be_checked_is_one_line_on_stderr(tmp_path: pathlib.Path, args: tuple[str, ...], message: str) -> None:
    (tmp_path / "noise.dat").write_bytes(b"\x17" + np.random.default_rng(3).bytes(5000))
    result = run(*(arg.format(folder=tmp_path) for arg in args))
    assert (result.exit_code, result.stdout) == (1, "")
    line, = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_an_unknown_format_is_a_wrong_command_line(scan: str) -> None:
    assert run(scan, "-f", "abacus").exit_code == 2


def test_text_of_files_cannot_control_the_terminal(scan: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a\x1b[31m.mib"
    path.write_bytes(pathlib.Path(scan).read_bytes()[:-9])
    result = run(str(path))
    assert result.exit_code == 1
    assert "\x1b" not in result.stdout
