"""The same MIB files read by gpuio and by LiberTEM; and both against the arrays before encoding.

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
from gpuio.synth import mib as synth

pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")

READ_WITH_LIBERTEM = """
import json, sys
import numba.core.caching, numpy as np
numba.core.caching.FunctionCache.load_overload = lambda *args: None
numba.core.caching.FunctionCache.save_overload = lambda *args: None
from libertem.api import Context
from libertem.io.dataset.base import BufferedBackend
from libertem.udf.raw import PickUDF

with Context.make_with("inline") as ctx:
    for job in json.load(sys.stdin):
        backend = {"io_backend": BufferedBackend()} if job["buffered"] else {}
        ds = ctx.load("mib", path=job["path"], **job["parameters"], **backend)
        frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
        np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
"""


@dataclass(frozen=True)
class Case:
    """A scan, and how it is opened."""

    kind: str
    layout: str = "1x1"
    side: int = 256
    nav: tuple[int, ...] = (2, 3)
    parameters: dict = field(default_factory=dict)
    opened: int = 0                     # which of the written files: 0 is the .hdr
    frames_per_file: int | None = None
    buffered: bool = False              # LiberTEM reads 1-bit RAW frames with this backend only
    right: int | None = None            # frames that LiberTEM reads right; None: all


CASES = {
    "u8": Case("U08", frames_per_file=4),
    "u16": Case("U16", nav=(3, 5), frames_per_file=4),
    "u16 skipping frames": Case("U16", parameters={"sync_offset": 2}, frames_per_file=4),
    "u16 inserting frames": Case("U16", parameters={"sync_offset": -3}),
    "u16 another scan shape": Case("U16", opened=2, parameters={"nav_shape": (2, 2)}, frames_per_file=4),
    "u16 one file of a series": Case("U16", opened=2, parameters={"nav_shape": (1, 2), "disable_glob": True}, frames_per_file=4),
    "u32": Case("U32"),
    "u16 quad with gap": Case("U16", "2x2G", 514),
    "r1": Case("R1", buffered=True),
    "r1 quad": Case("R1", "2x2", 512, buffered=True),
    "r6": Case("R6", frames_per_file=4),
    "r6 quad": Case("R6", "2x2", 512),
    "r12": Case("R12", frames_per_file=4, parameters={"sync_offset": 1}),
    "r12 quad": Case("R12", "2x2", 512, frames_per_file=4),
    "r12 quad with gap": Case("R12", "2x2G", 512),
    "r24": Case("R24", right=1),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, frames before encoding, LiberTEM's frames and shapes)."""
    folder = tmp_path_factory.mktemp("mib")
    jobs, written = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        n = int(np.prod(case.nav))
        rng = np.random.default_rng(number)
        frames = rng.integers(0, synth.KINDS[case.kind].largest, (n, case.side, case.side), dtype="u4", endpoint=True)
        paths = synth.write(str(folder / f"case_{number}_.mib"), [frames], nav_shape=case.nav, sig_shape=(case.side, case.side),
                            kind=case.kind, layout=case.layout, frames_per_file=case.frames_per_file)
        written[name] = paths[case.opened], frames
        jobs.append({"path": paths[case.opened], "result": str(folder / f"{number}.npz"), "parameters": case.parameters,
                     "buffered": case.buffered})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (*written[name], dict(np.load(job["result"]))) for name, job in zip(CASES, jobs, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_of_libertem(read, name):
    path, _, theirs = read[name]
    case = CASES[name]
    ds = gpuio.load("mib", path=path, device="cpu", **case.parameters)
    assert tuple(ds.shape.nav) == tuple(theirs["nav"]) and tuple(ds.shape.sig) == tuple(theirs["sig"])
    ours = np.asarray(ds[:]).reshape(-1, *ds.shape.sig)
    their_frames = theirs["frames"][:case.right]
    # Its native dtype is uint16 for 24-bit frames, whose upper 8 bit are lost, and wider than ours elsewhere.
    assert np.array_equal(ours[:case.right].astype(their_frames.dtype), their_frames)


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, frames, _ = read[name]
    case = CASES[name]
    ds = gpuio.load("mib", path=path, device="cpu", **case.parameters)
    if case.parameters.get("disable_glob"):
        frames = frames[(case.opened - 1) * case.frames_per_file:][:case.frames_per_file]
    expected = np.zeros((ds.shape.nav.size, *frames.shape[1:]), frames.dtype)
    for i in range(len(expected)):
        k = i + case.parameters.get("sync_offset", 0)
        if 0 <= k < len(frames):
            expected[i] = frames[k]
    assert np.array_equal(np.asarray(ds[:]).reshape(expected.shape), expected)
