"""The same FRMS6 sets read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

Pixels, dark frames and gain maps agree bit for bit wherever LiberTEM reads a set right. Where it does not:

=======================================  =================================================  ==================================
set                                      LiberTEM                                           gpuio
=======================================  =================================================  ==================================
``_000`` is missing                      takes ``_001`` for the dark frames, silently       error that names ``_000``
``NAME_001 copy.frms6`` in the folder    takes its frames for frames of the scan            not a member
header announces more frames than there  AssertionError without a file name                 whole frames, the rest is blank
a ``%`` in the ``.hdr``                  InterpolationSyntaxError                           understood
``dest_dtype``                           no effect                                          dtype of the pixels
=======================================  =================================================  ==================================

LiberTEM runs in a process of its own. Its compiled readers are kept on disk under a key that does not tell decoders apart, so
loading them from there is switched off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.io import savemat

import gpuio
from gpuio import synth

pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")

READ_WITH_LIBERTEM = """
import json, sys
import numba.core.caching, numpy as np
numba.core.caching.FunctionCache.load_overload = lambda *args: None
numba.core.caching.FunctionCache.save_overload = lambda *args: None
from libertem.api import Context
from libertem.udf.raw import PickUDF

with Context.make_with("inline") as ctx:
    for job in json.load(sys.stdin):
        try:
            ds = ctx.load("frms6", path=job["path"], **job["parameters"])
            frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
            np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig), error="")
        except Exception as error:
            np.savez(job["result"], error=type(error).__name__)
"""
NAV, W = (3, 5), 14


@dataclass(frozen=True)
class Case:
    """A set, and how it is opened."""

    binning: int = 1
    parameters: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)     # of the writer
    opened: int = 0                                 # which of the written files: 0 is the .hdr
    gain: bool = False
    spoil: str = ""                                 # what is done to the set; LiberTEM then fails, or reads it wrong


CASES = {
    "binning 1": Case(),
    "binning 2": Case(2, opened=1),
    "binning 4": Case(4, opened=3),
    "uncorrected": Case(2, {"enable_offset_correction": False}),
    "frames not counted in headers": Case(4, options={"count_in_header": False}),
    "skipping frames": Case(4, {"sync_offset": 3}),
    "inserting blank frames": Case(1, {"sync_offset": -4}),
    "another scan shape": Case(2, {"nav_shape": (2, 4)}),
    "a larger scan": Case(2, {"nav_shape": (4, 5)}),
    "gain": Case(2, gain=True),
    "gain only": Case(1, {"enable_offset_correction": False}, gain=True),
    "no dark file": Case(1, {"nav_shape": (2, 4)}, spoil="no dark"),
    "a foreign file": Case(spoil="foreign"),
    "cut short": Case(spoil="cut"),
    "a percent sign": Case(spoil="percent"),
}


def frames_of(number, binning):
    """Frames, dark frames and gain of a case."""
    rng = np.random.default_rng(number)
    frames, dark = (np.repeat(rng.integers(0, top, (n, 6, W), dtype="u2"), binning, axis=1) for n, top in ((15, 1 << 16), (7, 1000)))
    return frames, dark, rng.normal(1, 0.1, frames.shape[1:])


def spoil(what, paths):
    if what == "no dark":
        os.remove(paths[1])
    elif what == "foreign":
        with open(paths[2], "rb") as first, open(paths[2].replace("_001", "_001 copy"), "wb") as foreign:
            foreign.write(first.read())
    elif what == "cut":
        os.truncate(paths[-1], os.path.getsize(paths[-1]) - 5)
    elif what == "percent":
        with open(paths[0], "ab") as text:
            text.write(b"comment = 50 % of the dose\r\n")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, parameters, what LiberTEM gives)."""
    folder = tmp_path_factory.mktemp("frms6")
    jobs = []
    for number, case in enumerate(CASES.values()):
        frames, dark, gain = frames_of(number, case.binning)
        (folder / str(number)).mkdir()
        paths = synth.write("frms6", folder / str(number) / "scan.hdr", [frames], nav_shape=NAV, sig_shape=frames.shape[1:],
                            binning=case.binning, frames_per_file=4, dark=dark, **case.options)
        spoil(case.spoil, paths)
        parameters = dict(case.parameters)
        if case.gain:
            parameters["gain_map_path"] = str(folder / f"{number}.mat")
            savemat(parameters["gain_map_path"], {"GainMap": gain})
        jobs.append({"path": paths[case.opened], "result": str(folder / f"{number}.npz"), "parameters": parameters})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (job["path"], job["parameters"], dict(np.load(job["result"]))) for name, job in zip(CASES, jobs, strict=True)}


def truth(name):
    """What the array before encoding says."""
    case, number = CASES[name], list(CASES).index(name)
    frames, dark, gain = frames_of(number, case.binning)
    offset = case.parameters.get("enable_offset_correction", True)
    pixels = frames
    if offset or case.gain:
        mean = dark.astype("f8").mean(axis=0).astype("f4") if offset else np.zeros(frames.shape[1:], "f4")
        pixels = ((frames.astype("f8") - mean) * (gain if case.gain else 1)).astype("f4")
    nav = case.parameters.get("nav_shape", NAV)
    expected = np.zeros((int(np.prod(nav)), *pixels.shape[1:]), pixels.dtype)
    for i in range(len(expected)):
        k = i + case.parameters.get("sync_offset", 0)
        if 0 <= k < len(pixels):
            expected[i] = pixels[k]
    return expected.reshape(*nav, *pixels.shape[1:])


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].spoil != "no dark"])
def test_frames_are_those_before_encoding(read, name):
    path, parameters, _ = read[name]
    expected = truth(name)
    if CASES[name].spoil == "cut":
        expected[-1, -1] = 0
    ds = gpuio.load("frms6", path=path, device="cpu", **parameters)
    assert ds.dtype == expected.dtype
    np.testing.assert_array_equal(ds[:], expected)


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].spoil])
def test_frames_are_those_of_libertem(read, name):
    path, parameters, theirs = read[name]
    assert theirs["error"] == ""
    ds = gpuio.load("frms6", path=path, device="cpu", **parameters)
    assert tuple(ds.shape.nav) == tuple(theirs["nav"]) and tuple(ds.shape.sig) == tuple(theirs["sig"])
    np.testing.assert_array_equal(np.asarray(ds[:]).reshape(theirs["frames"].shape), theirs["frames"])


@pytest.mark.parametrize(("name", "error"), [("cut short", "AssertionError"), ("a percent sign", "InterpolationSyntaxError")])
def test_libertem_fails_where_gpuio_reads(read, name, error):
    assert read[name][2]["error"] == error


def test_libertem_takes_another_file_for_the_dark_frames_where_gpuio_refuses(read):
    path, _, theirs = read["no dark file"]
    assert theirs["error"] == "" and not np.array_equal(theirs["frames"], truth("no dark file").reshape(theirs["frames"].shape))
    with pytest.raises(gpuio.FormatError, match=r"scan_000\.frms6: the file of the dark frames is missing"):
        gpuio.load("frms6", path=path)


def test_libertem_takes_foreign_files_for_members(read):
    theirs = read["a foreign file"][2]
    assert theirs["error"] == "" and not np.array_equal(theirs["frames"], truth("a foreign file").reshape(theirs["frames"].shape))
