"""The same EMPAD sets read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

Pixels agree bit for bit wherever LiberTEM reads a set. Where it does not:

=============================================  =====================================  ==========================================
set                                            LiberTEM                               gpuio
=============================================  =====================================  ==========================================
scan shape only in ``pix_x``, ``pix_y``        refused                                read, after a look at the size
scan shape only in the name of the raw file    refused                                read, after a look at the size
``.raw`` opened, ``.xml`` beside it            nav_shape is needed                    the XML is found
raw file cut short, opened by the ``.xml``     refused, even with a nav_shape         whole frames, the rest is blank, with a note
=============================================  =====================================  ==========================================

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
            ds = ctx.load("empad", path=job["path"], **job["parameters"])
            frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
            np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig), error="")
        except Exception as error:
            np.savez(job["result"], error=type(error).__name__)
"""


@dataclass(frozen=True)
class Case:
    """A set, and how it is opened."""

    version: str = "1.2.2"
    nav: tuple[int, ...] = (3, 5)
    parameters: dict = field(default_factory=dict)
    opened: int = 0                     # 0 is the .xml, 1 the .raw
    replace: tuple[str, str] = ("", "")     # a text of the XML, and what stands there instead
    cut: int = 0                        # bytes missing at the end of the raw file
    fails: bool = False                 # LiberTEM does


CASES = {
    "new scan": Case(),
    "old scan": Case("0.51"),
    "old series": Case("0.51", (7,)),
    "search mode": Case(replace=('mode="acquire"><scan_size>1.0</scan_size><scan_resolution_x>5', 'mode="acquire"><scan_resolution_x>256')),
    "skipping frames": Case(parameters={"sync_offset": 4}),
    "inserting blank frames": Case(parameters={"sync_offset": -2}),
    "another scan shape": Case(parameters={"nav_shape": (5, 3)}),
    "raw": Case(parameters={"nav_shape": (3, 5)}, opened=1),
    "raw, larger scan": Case(parameters={"nav_shape": (4, 5)}, opened=1),
    "raw, cut short": Case(parameters={"nav_shape": (3, 5)}, opened=1, cut=7),
    "raw, its XML beside it": Case(opened=1, fails=True),
    "another sig shape": Case(parameters={"sig_shape": (64, 256)}),
    "pix_x and pix_y only": Case("0.51", replace=("scan_resolution", "resolution"), fails=True),
    "name only": Case(replace=("scan_resolution", "resolution"), fails=True),
    "XML, cut short": Case(parameters={"nav_shape": (3, 5)}, cut=7, fails=True),
}


def frames_of(name):
    return np.random.default_rng(list(CASES).index(name)).normal(0, 100, (int(np.prod(CASES[name].nav)), 128, 128)).astype("f4")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to (path, what LiberTEM gives)."""
    folder = tmp_path_factory.mktemp("empad")
    jobs = []
    for number, (name, case) in enumerate(CASES.items()):
        (folder / str(number)).mkdir()
        paths = synth.write("empad", folder / str(number) / "acquisition.xml", [frames_of(name)], nav_shape=case.nav, sig_shape=(128, 128),
                            version=case.version)
        with open(paths[0], "r+", encoding="utf-8") as xml:
            text = xml.read()
            old, new = case.replace
            assert old in text
            xml.seek(0)
            xml.truncate()
            xml.write(text.replace(old, new) if old else text)
        os.truncate(paths[1], os.path.getsize(paths[1]) - case.cut)
        jobs.append({"path": paths[case.opened], "result": str(folder / f"{number}.npz"), "parameters": case.parameters})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (job["path"], dict(np.load(job["result"]))) for name, job in zip(CASES, jobs, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    case = CASES[name]
    frames = frames_of(name)
    if case.cut:
        frames[-1] = 0
    nav, sig = case.parameters.get("nav_shape", case.nav), case.parameters.get("sig_shape", (128, 128))
    expected = np.zeros((int(np.prod(nav)), 128, 128), "f4")
    for i in range(len(expected)):
        k = i + case.parameters.get("sync_offset", 0)
        if 0 <= k < len(frames):
            expected[i] = frames[k]
    ds = gpuio.load("empad", path=read[name][0], device="cpu", **case.parameters)
    assert len(ds.notes) == (case.cut > 0 or name == "search mode")
    np.testing.assert_array_equal(ds[:], expected.reshape(*nav, *sig))


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].fails])
def test_frames_are_those_of_libertem(read, name):
    path, theirs = read[name]
    assert theirs["error"] == ""
    ds = gpuio.load("empad", path=path, device="cpu", **CASES[name].parameters)
    assert tuple(ds.shape.nav) == tuple(theirs["nav"]) and tuple(ds.shape.sig) == tuple(theirs["sig"])
    np.testing.assert_array_equal(np.asarray(ds[:]).reshape(theirs["frames"].shape), theirs["frames"])


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].fails])
def test_libertem_fails_where_gpuio_reads(read, name):
    assert read[name][1]["error"]
