"""The same sequences read by gpuio and by LiberTEM 0.16, corrections included; and both against the arrays before encoding.

LiberTEM reads all of these right. Where it does not:

==========================================  =====================================================================================
case                                        LiberTEM
==========================================  =====================================================================================
references named ``NAME.dark.mrc``          are not looked for, though its documentation names them so
map of bad pixels that is not square        is transposed, and fails or excludes other pixels
description of zeros                        UnicodeDecodeError
no ``BadPixelMap`` in the XML               IndexError
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
from gpuio.synth import seq as synth
from tests.formats.seq_files import corrected

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
        ds = ctx.load("seq", path=job["path"], **job["parameters"])
        frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
        np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
"""

DEFECTS = ({"Rows": "20-21"}, {"Row": "50"}, {"Columns": "7-9"}, {"Column": "40"}, {"Row": "30", "Column": "33"})


@dataclass(frozen=True)
class Case:
    """A scan, and how it is opened."""

    options: dict = field(default_factory=dict)         # of the writer
    parameters: dict = field(default_factory=dict)
    maps: tuple[str, ...] = ()
    sig: tuple[int, int] = (12, 20)
    bad: tuple = ()                                     # excluded pixels of a frame, as indices


CASES = {
    "u8": Case({"depth": 8}),
    "u16": Case(),
    "u32": Case({"depth": 32}),
    "version 3": Case({"version": 3, "footer_bytes": 8}),
    "long footers": Case({"footer_bytes": 100}),
    "skipping frames": Case(parameters={"sync_offset": 4}),
    "inserting frames": Case(parameters={"sync_offset": -3}),
    "another scan shape": Case(parameters={"nav_shape": (2, 5)}),
    "dark": Case(maps=("dark",)),
    "gain": Case(maps=("gain",)),
    "dark and gain": Case({"depth": 8}, {"sync_offset": 2}, ("dark", "gain")),
    "bad pixels": Case({"defects": DEFECTS, "sensor": (64, 64), "offset": (16, 16)}, {}, ("dark", "gain"), (32, 32),
                       (np.s_[4:6], np.s_[:, 24], np.s_[14, 17])),
    "bad pixels of a binned sensor": Case({"defects": [{"Row": "9"}, {"Row": "12", "Column": "15"}], "sensor": (32, 32), "offset": (8, 12),
                                           "binning": 2}, {}, (), (20, 20), (np.s_[5], np.s_[8, 9])),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, frames corrected before encoding, LiberTEM's frames and shapes)."""
    folder = tmp_path_factory.mktemp("seq")
    jobs, written = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        rng = np.random.default_rng(number)
        depth = case.options.get("depth", 16)
        frames = rng.integers(0, 1 << depth, (15, *case.sig), dtype=np.uint64).astype(f"u{depth // 8}")
        maps = {which: rng.gamma(4, 0.25, case.sig).astype("f4") for which in case.maps}
        path = synth.write(str(folder / f"case_{number}.seq"), [frames], nav_shape=(3, 5), sig_shape=case.sig, **case.options, **maps)[0]
        bad = np.zeros(case.sig, bool)
        for at in case.bad:
            bad[at] = True
        written[name] = path, corrected(frames, bad=bad, **maps) if maps or case.bad else frames
        jobs.append({"path": path, "result": str(folder / f"{number}.npz"), "parameters": {"nav_shape": (3, 5), **case.parameters}})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (*written[name], dict(np.load(job["result"]))) for name, job in zip(CASES, jobs, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_of_libertem(read, name):
    path, _, theirs = read[name]
    ds = gpuio.load("seq", path=path, device="cpu", **{"nav_shape": (3, 5), **CASES[name].parameters})
    assert tuple(ds.shape.nav) == tuple(theirs["nav"]) and tuple(ds.shape.sig) == tuple(theirs["sig"])
    ours = np.asarray(ds[:]).reshape(-1, *ds.shape.sig)
    np.testing.assert_array_equal(ours.astype(theirs["frames"].dtype), theirs["frames"])


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, frames, _ = read[name]
    ds = gpuio.load("seq", path=path, device="cpu", **{"nav_shape": (3, 5), **CASES[name].parameters})
    expected = np.zeros((ds.shape.nav.size, *frames.shape[1:]), frames.dtype)
    for i in range(len(expected)):
        k = i + CASES[name].parameters.get("sync_offset", 0)
        if 0 <= k < len(frames):
            expected[i] = frames[k]
    np.testing.assert_array_equal(np.asarray(ds[:]).reshape(expected.shape), expected)
