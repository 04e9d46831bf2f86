"""The same K2IS captures read by gpuio and by LiberTEM; and both against the frames before encoding.

LiberTEM runs in a process of its own, without its compiled readers on disk. Where it is not right (release 0.16):

==================================================  ============================================================================
capture                                             LiberTEM
==================================================  ============================================================================
blocks lost in mid-recording                        everything behind the loss is shifted, without a word; gpuio: zeros in their
                                                    place. Where the last frame is then mixed, it does not open: AssertionError
fewer than 400 frames, the first one not flagged    does not open: IndexError
a scan whose first complete frame is flagged        opens with negative sync offsets only, else EINVAL
==================================================  ============================================================================

Its sync offsets of scans are one more than gpuio's: there, 1 is the first complete frame.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import gpuio
from gpuio.synth import k2is as synth
from tests.formats.k2is_files import BLOCK, ENDS, STARTS

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
            ds = ctx.load("k2is", path=job["path"], **job["parameters"])
            frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
            np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
        except Exception as error:
            np.savez(job["result"], error=type(error).__name__ + ": " + str(error))
"""


@dataclass(frozen=True)
class Case:
    """A capture of 7 recorded frames, and how it is opened."""

    nav: tuple[int, ...] = (1, 3)       # as opened
    scan: bool = False
    shutter: int = 0                    # recorded frame from which on the flag is set
    ragged: bool = True
    offset: int | None = None           # gpuio's
    lost: int | None = None             # recorded block of the fourth sector
    right: bool = True                  # whether LiberTEM shows what was recorded
    opens: bool = True                  # whether it opens the capture


#: Ragged sectors have the recorded frames 2 to 4 complete; the others all seven.
CASES = {
    "time series": Case(ragged=False, nav=(7,)),
    "ragged time series": Case(nav=(3,)),
    "ragged time series as a scan": Case(),
    "skipping frames": Case(offset=4, ragged=False, nav=(1, 3)),
    "inserting frames": Case(offset=-1),
    "scan inserting frames": Case(scan=True, offset=-2),
    "scan": Case(scan=True, opens=False),
    "scan with a late flag": Case(scan=True, shutter=3, opens=False),
    "time series with a late flag": Case(shutter=2, ragged=False, nav=(5,), opens=False),
    "more positions than frames": Case(offset=1, nav=(2, 2)),
    "more positions than frames of a scan": Case(scan=True, offset=-2, nav=(2, 3)),
    "a lost block": Case(ragged=False, offset=1, nav=(2, 3), lost=70, right=False),
    "a lost block of a ragged capture": Case(offset=0, lost=70, opens=False),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, recorded frames, what LiberTEM found)."""
    folder = tmp_path_factory.mktemp("k2is")
    frames = np.random.default_rng(4).integers(1, 4096, (7, 1860, 2048), dtype="u2")
    jobs, paths = [], []
    for number, case in enumerate(CASES.values()):
        cuts = {"cut_start": STARTS, "cut_end": ENDS} if case.ragged else {}
        path, *sectors = synth.write(str(folder / f"case_{number}_.gtg"), [frames], nav_shape=(1, 7), scan=case.scan,
                                     shutter=case.shutter, **cuts)
        if case.lost is not None:
            stored = np.fromfile(sectors[3], "u1").reshape(-1, BLOCK)
            np.delete(stored, case.lost - case.ragged * STARTS[3], axis=0).tofile(sectors[3])
        paths.append(path)
        offset = None if case.offset is None else case.offset + case.scan
        jobs.append({"path": path, "result": str(folder / f"{number}.npz"), "parameters": {"nav_shape": case.nav, "sync_offset": offset}})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (path, frames, dict(np.load(job["result"]))) for name, path, job in zip(CASES, paths, jobs, strict=True)}


def opened(path, case):
    return gpuio.load("k2is", path=path, nav_shape=case.nav, sync_offset=case.offset, device="cpu")


def expected(frames, case):
    """What positions show, from the recorded frames."""
    first, count = (2, 3) if case.ragged else (0, 7)
    offset = max(0, case.shutter - first) - case.scan if case.offset is None else case.offset
    result = np.zeros((int(np.prod(case.nav)), 1860, 2048), "u2")
    for i in range(len(result)):
        if 0 <= i + offset < count:
            result[i] = frames[first + i + offset]
            if case.lost is not None and (first + i + offset) == case.lost // 32:
                b = case.lost % 32
                result[i, 930 * (b // 16):930 * (b // 16) + 930, 768 + 240 - 16 * (b % 16):768 + 256 - 16 * (b % 16)] = 0
    return result


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, frames, _ = read[name]
    case = CASES[name]
    assert np.array_equal(opened(path, case)[...].reshape(-1, 1860, 2048), expected(frames, case))


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_of_libertem_where_it_is_right(read, name):
    path, _, theirs = read[name]
    case = CASES[name]
    ours = opened(path, case)[...]
    assert ("error" not in theirs) == case.opens, theirs.get("error")
    if not case.opens:
        return
    assert tuple(theirs["nav"]) == case.nav and tuple(theirs["sig"]) == (1860, 2048)
    assert np.array_equal(ours.reshape(theirs["frames"].shape), theirs["frames"]) == case.right
