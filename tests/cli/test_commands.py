"""The command line as a user sees it: stdout, stderr and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import gpuio
from gpuio.cli import Parameter, main, plain, progress_bar

NAV, SIG = (3, 5), (11, 7)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(20).integers(0, 4096, (*NAV, *SIG)).astype(np.uint16)


@pytest.fixture
def npy(tmp_path: Path, frames: np.ndarray) -> str:
    path = tmp_path / "scan.npy"
    np.save(path, frames.astype(">u2"))
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), prog_name="gpuio")


def failed(result: Result, code: int = 1) -> str:
    """The one line that a failed command has printed."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_no_command_shows_what_there_is() -> None:
    result = run()
    assert result.exit_code == 0
    assert all(command in result.stdout for command in ("info", "show", "make", "formats", "demo"))


def test_version_is_the_packages() -> None:
    assert run("--version").stdout.split()[-1] == gpuio.__version__


def test_info_tells_what_the_file_holds(npy: str) -> None:
    result = run("info", npy)
    assert result.exit_code == 0
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:8])
    assert rows == {"format": "npy", "files": npy, "nav_shape": "3 x 5", "sig_shape": "11 x 7", "dtype": "uint16",
                    "image_count": "15", "sync_offset": "0", "device": rows["device"]}


def test_info_as_json_is_one_value_with_the_same_facts(npy: str) -> None:
    result = run("info", npy, "--json", "-p", "nav_shape=13", "-p", "sync_offset=-2", "--device", "cpu")
    facts = json.loads(result.stdout)
    assert result.stderr == ""
    assert (facts["nav_shape"], facts["sig_shape"], facts["dtype"]) == ([13], [11, 7], "uint16")
    assert (facts["image_count"], facts["sync_offset"], facts["device"], facts["format"]) == (15, -2, "cpu", "npy")
    assert facts["metadata"]["dtype_on_disk"] == ">u2"
    found = {d["name"]: d["value"] for d in facts["diagnostics"]}
    assert found["Number of blank frames inserted at the beginning"] == 2
    assert found["Number of frames ignored at the end"] == 4


def test_a_format_without_header_is_opened_by_name_and_parameters(tmp_path: Path, frames: np.ndarray) -> None:
    path = tmp_path / "scan.bin"
    path.write_bytes(b"x" * 19 + frames.astype(">u2").tobytes())
    result = run("info", str(path), "--json", "-f", "raw", "-p", "dtype=>u2", "-p", "nav_shape=3,5", "-p", "sig_shape=11,7",
                 "-p", "file-header=19")
    facts = json.loads(result.stdout)
    assert (facts["format"], facts["nav_shape"], facts["sig_shape"], facts["image_count"]) == ("raw", [3, 5], [11, 7], 15)


def test_notes_about_odd_files_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "odd.bin"
    path.write_bytes(np.random.default_rng(2).bytes(15 * 77 + 51))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = run("info", "odd.bin", "-f", "raw", "-p", "dtype=u1", "-p", "sig_shape=11,7")
    assert any(line.startswith("note: ") and "51 bytes" in line for line in result.stdout.splitlines())


def test_warnings_are_one_line_on_stderr(npy: str) -> None:
    result = run("info", npy, "--json", "-f", "raw", "-p", "dtype=u1", "-p", "sig_shape=11,7")
    line, = result.stderr.splitlines()
    assert line.startswith(f"warning: {npy}: looks like a NumPy file")
    assert json.loads(result.stdout)["format"] == "raw"


@pytest.mark.parametrize("command", ["info", "show"])
def test_a_missing_file_is_named(command: str, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.npy")
    assert failed(run(command, path)) == f"error: {path}: No such file or directory"


def test_a_file_of_no_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "noise.dat"
    path.write_bytes(b"\x17" + np.random.default_rng(3).bytes(5000))
    assert str(path) in failed(run("info", str(path)))


def test_a_truncated_file_gives_one_line(tmp_path: Path, npy: str) -> None:
    cut = tmp_path / "cut.npy"
    cut.write_bytes(Path(npy).read_bytes()[:-1])
    assert str(cut) in failed(run("info", str(cut), "--json"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "folder" in failed(run("info", str(tmp_path)))


def test_a_device_that_is_not_there_says_why(npy: str) -> None:
    assert "'cuda:99' is not available" in failed(run("info", npy, "--device", "cuda:99"))


def test_an_unknown_device_lists_the_known_ones(npy: str) -> None:
    assert "'cuda:N'" in failed(run("info", npy, "--device", "abacus"))


def test_a_missing_parameter_of_the_format_is_named(npy: str) -> None:
    assert failed(run("info", npy, "-f", "raw")) == f"error: {npy}: the format needs 'dtype'; parameters are given as -p key=value"


def test_an_unknown_parameter_of_the_format_is_named(npy: str) -> None:
    assert failed(run("info", npy, "-p", "colour=3")) == f"error: {npy}: the format has no 'colour'; parameters are given as -p key=value"


def test_a_sync_offset_out_of_range_is_refused(npy: str) -> None:
    assert "(-15, 15)" in failed(run("info", npy, "-p", "sync_offset=15"))


@pytest.mark.parametrize("args", [
    ["info"], ["info", "x", "--frob"], ["info", "x", "-p", "colour"], ["info", "x", "-p", "=3"], ["info", "x", "-f", "betamax"],
    ["info", "x", "-p", "path=y"], ["info", "x", "-p", "io_backend=carrier-pigeon"], ["show", "x", "-o", "x.tif"],
    ["make", "npy", "x", "--nav", "0", "3"], ["frobnicate"], ["info", "x", "-p", "device=cpu"], ["info", "x", "-p", "format=npy"],
    ["info", "x", "-p", "dtype=betamax"], ["make", "npy", "x", "-p", "dtype=S3"], ["explain", "x", "--dtype", "object"],
])
def test_a_wrong_command_line_is_exit_code_2(args: list[str]) -> None:
    failed(run(*args), 2)


def test_a_fault_is_one_line_and_a_traceback_only_for_debugging(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("lost\nkey")

    monkeypatch.setattr(gpuio, "open", broken)
    assert "KeyError: 'lost\\nkey'" in failed(run("info", npy))
    monkeypatch.setenv("GPUIO_DEBUG", "1")
    assert isinstance(run("info", npy).exception, KeyError)


def test_an_interrupted_command_is_exit_code_130(npy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpuio, "open", interrupted)
    result = run("info", npy)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "error: interrupted"


def test_control_characters_of_file_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    line = failed(run("info", str(tmp_path / "a\x1b[31mb\udcff.npy")))
    assert "\x1b" not in line
    assert "a\ufffd[31mb\ufffd.npy" in line


@pytest.mark.parametrize(("text", "expected"), [
    ("nav_shape=2,4", ("nav_shape", (2, 4))), ("nav_shape=7", ("nav_shape", (7,))), ("nav_shape=(3, 5, 7)", ("nav_shape", (3, 5, 7))),
    ("nav-shape=2,4", ("nav_shape", (2, 4))), ("sync_offset=-3", ("sync_offset", -3)), ("dtype=u2", ("dtype", "u2")),
    ("dtype=>u2", ("dtype", ">u2")), ("disable_glob=true", ("disable_glob", True)), ("x=False", ("x", False)), ("x=none", ("x", None)),
    ("x=1e-3", ("x", 1e-3)), ("x='12'", ("x", "12")), ("x=a=b", ("x", "a=b")), ("x=", ("x", "")), ("x=007", ("x", "007")),
    ("x={1: 2}", ("x", "{1: 2}")), ("x=__import__('os')", ("x", "__import__('os')")), ("x=" + "(" * 5000, ("x", "(" * 5000)),
])
def test_parameters_become_the_values_they_look_like(text: str, expected: tuple[str, object]) -> None:
    key, value = Parameter().convert(text, None, None)
    assert (key, value, type(value)) == (*expected, type(expected[1]))


def test_json_values_are_plain() -> None:
    value = {1: np.float32(0.5), "a": np.arange(3), "nan": float("nan"), "inf": np.float64("inf"), "path": Path("x"), "set": {7},
             "flag": np.bool_(True), "none": None, "nested": ({"k": (1, 2)},), "text": "ä"}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "1": 0.5, "a": [0, 1, 2], "nan": None, "inf": None, "path": "x", "set": [7], "flag": True, "none": None,
        "nested": [{"k": [1, 2]}], "text": "ä"}


def test_no_progress_is_drawn_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading") as progress:
        progress(1, 3)
        progress(3, 3)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["memory", "dask"])
def test_formats_of_arrays_are_no_formats_of_files(name: str) -> None:
    result = run("info", "a.npy", "--format", name)
    assert result.exit_code == 2 and f"{name} is for arrays, not for files; in Python, gpuio.load('{name}', ...)" in result.stderr
    assert f"{name:8} arrays in Python, with gpuio.load('{name}', ...)" in run("formats").stdout


def test_formats_lists_every_format() -> None:
    assert [row["name"] for row in json.loads(run("formats", "--json").stdout)] == gpuio.formats()
    assert [line.split()[0] for line in run("formats").stdout.splitlines()] == gpuio.formats()


def test_show_writes_a_picture_and_says_so(npy: str, tmp_path: Path) -> None:
    out = tmp_path / "scan.png"
    result = run("show", npy, "-o", str(out), "--json", "--device", "cpu")
    facts = json.loads(result.stdout)
    assert (facts["output"], facts["device"]) == (str(out), "cpu")
    assert (facts["nav_shape"], facts["sig_shape"], facts["frames"]) == ([3, 5], [11, 7], 15)
    assert result.stderr == ""
    with Image.open(out) as image:
        image.load()
        assert image.format == "PNG"


def test_show_names_its_picture_after_the_file(npy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("show", npy)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("scan.png: scan 3 x 5, pattern 11 x 7, 15 frames in ")
    assert (tmp_path / "scan.png").exists()


def test_show_into_a_folder_that_is_not_there_is_refused(npy: str, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "scan.png"
    assert failed(run("show", npy, "-o", str(out))) == f"error: {out}: No such file or directory"


def test_a_memory_budget_below_one_frame_says_how_much_is_needed(npy: str, tmp_path: Path) -> None:
    assert "bytes are needed" in failed(run("show", npy, "-o", str(tmp_path / "x.png"), "--memory", "100", "-p", "io_backend=buffered"))


@pytest.mark.parametrize(("format_name", "name", "options"), [
    ("npy", "scan.npy", []), ("mib", "scan.mib", ["-p", "kind=R12"]),
    ("mib", "quad.mib", ["-p", "kind=R6", "-p", "layout=2x2", "--bits", "6"]),
])
def test_a_scan_that_was_made_can_be_opened_and_shown(format_name: str, name: str, options: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / name)
    made = run("make", format_name, path, "--nav", "2", "3", "--sig", "128", "128", "--json", *options)
    assert made.exit_code == 0, made.stderr
    facts = json.loads(made.stdout)
    assert all(os.path.exists(f) for f in facts["files"])
    assert facts["bytes"] == sum(os.path.getsize(f) for f in facts["files"])
    info = json.loads(run("info", path, "--json").stdout)
    assert (info["format"], info["nav_shape"], info["sig_shape"], info["image_count"]) == (format_name, [2, 3], [128, 128], 6)
    assert run("show", path, "-o", str(tmp_path / "scan.png")).exit_code == 0


def test_make_gives_the_same_scan_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert run("make", "npy", str(tmp_path / f"{name}.npy"), "--nav", "2", "3", "--sig", "17", "19", "--seed", seed).exit_code == 0
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert a.shape == (2, 3, 17, 19)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_make_replaces_a_file_only_when_forced(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    path.write_bytes(b"precious")
    args = ("make", "npy", str(path), "--nav", "2", "3", "--sig", "17", "19")
    assert "already exists" in failed(run(*args))
    assert path.read_bytes() == b"precious"
    assert run(*args, "--force").exit_code == 0
    assert np.load(path).shape == (2, 3, 17, 19)


def test_make_refuses_an_unknown_format_and_option(tmp_path: Path) -> None:
    failed(run("make", "betamax", str(tmp_path / "scan.bin")))
    assert "'colour'" in failed(run("make", "npy", str(tmp_path / "scan.npy"), "-p", "colour=3"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["make", "npy"], ["make", "mib"], ["refs", "-o"]])
def test_errors_of_writing_name_what_was_asked_for(command: list[str], npy: str, tmp_path: Path) -> None:
    out = str(tmp_path / "nowhere" / "scan.hdr")
    source = [npy] if command[0] == "refs" else []
    assert failed(run(*command, out, *source)) == f"error: {out}: No such file or directory"


def test_every_command_says_in_the_list_what_it_does() -> None:
    lines = run("--help").stdout.split("Commands:\n")[1].splitlines()
    assert len(lines) == len(main.commands) and not [line for line in lines if line.endswith("...")]


def test_the_module_runs_as_a_program_and_survives_a_closed_pipe(npy: str) -> None:
    command = [sys.executable, "-m", "gpuio", "info", npy]
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    assert whole.stdout.startswith("format")
    assert whole.stderr == ""
    read_end, write_end = os.pipe()
    os.close(read_end)
    cut = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert "Traceback" not in cut.stderr
