"""The same TVIPS recordings read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

LiberTEM reads all of these right. Where it does not:

==========================================  =====================================================================================
case                                        LiberTEM
==========================================  =====================================================================================
frame headers shorter than 108 bytes        takes pixels for scan positions; IndexError at the end of a file
opened by another file than the first       "Unknown TVIPS header version"
scan that starts after the first file       IndexError: headers are looked for in the first file, frames counted in all
``scan_split_000.tvips`` beside             taken as a member of ``scan``
scan fields that are no numbers             ValueError
idle frames after the scan                  whole lines of them are taken for lines of the scan
interrupted recording                       AssertionError
==========================================  =====================================================================================

LiberTEM runs in a process of its own. Its compiled readers are kept on disk under a key that does not tell decoders apart, so
loading them from there is switched off.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

import gpuio
from gpuio.synth import tvips as synth

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
        ds = ctx.load("tvips", path=job["path"], **job["parameters"])
        frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
        np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig), sync=ds.meta.sync_offset)
"""

SIG = (12, 20)


@dataclass(frozen=True)
class Case:
    """A scan of 3 x 5 positions, and how it is opened."""

    options: dict = field(default_factory=dict)         # of the writer
    parameters: dict = field(default_factory=dict)


CASES = {
    "u8": Case({"bits": 8}),
    "u16": Case(),
    "u16 in files": Case({"frames_per_file": 7}),
    "idle frames": Case({"idle_before": 3}),
    "idle frames after": Case({"idle_before": 1, "idle_after": 4}),
    "idle frames in files": Case({"idle_before": 2, "frames_per_file": 9}),
    "no scan": Case({"scan_headers": False}),
    "version 1": Case({"version": 1, "idle_before": 2}),
    "another start": Case({"idle_before": 3}, {"sync_offset": 1}),
    "inserting frames": Case({"idle_before": 3}, {"sync_offset": -2}),
    "another scan shape": Case({"idle_before": 3}, {"nav_shape": (4, 4)}),
    "another scan shape and start": Case({"idle_before": 3}, {"nav_shape": (2, 3), "sync_offset": 5}),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, frames before encoding, LiberTEM's frames and shapes)."""
    folder = tmp_path_factory.mktemp("tvips")
    jobs, written = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 1 << case.options.get("bits", 16), (15, *SIG)).astype("u2")
        path = synth.write(str(folder / f"case_{number}.tvips"), [frames], nav_shape=(3, 5), sig_shape=SIG, **case.options)[0]
        idle = [np.zeros((case.options.get(which, 0), *SIG), "u2") for which in ("idle_before", "idle_after")]
        written[name] = path, np.concatenate([idle[0], frames, idle[1]])
        jobs.append({"path": path, "result": str(folder / f"{number}.npz"), "parameters": case.parameters})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (*written[name], dict(np.load(job["result"]))) for name, job in zip(CASES, jobs, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_shape_and_start_are_those_of_libertem(read, name):
    path, _, theirs = read[name]
    ds = gpuio.load("tvips", path=path, device="cpu", **CASES[name].parameters)
    assert (tuple(ds.shape.nav), tuple(ds.shape.sig), ds.sync_offset) == (tuple(theirs["nav"]), tuple(theirs["sig"]), theirs["sync"])
    ours = np.asarray(ds[:]).reshape(-1, *SIG)
    np.testing.assert_array_equal(ours.astype(theirs["frames"].dtype), theirs["frames"])


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, frames, _ = read[name]
    ds = gpuio.load("tvips", path=path, device="cpu", **CASES[name].parameters)
    expected = np.zeros((ds.shape.nav.size, *SIG), frames.dtype)
    for i in range(len(expected)):
        k = i + ds.sync_offset
        if 0 <= k < len(frames):
            expected[i] = frames[k]
    np.testing.assert_array_equal(np.asarray(ds[:]).reshape(expected.shape), expected)
