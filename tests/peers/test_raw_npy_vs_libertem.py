"""The same raw and NumPy files read by gpuio and by LiberTEM, wherever LiberTEM reads them.

LiberTEM runs in a process of its own. Its compiled readers are kept on disk under a key that does not tell decoders apart, so
loading them from there is switched off.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import gpuio
from tests.formats.items import assert_same, random_items

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
        ds = ctx.load(job["format"], path=job["path"], **job["parameters"])
        frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
        np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
"""

RAW = {"nav_shape": (3, 5), "sig_shape": (7, 11)}

#: Format, dtype, parameters. The array has shape (3, 5, 7, 11).
CASES = {
    "raw u1": ("raw", "u1", RAW),
    "raw <u2": ("raw", "<u2", RAW),
    "raw >u2": ("raw", ">u2", RAW),
    "raw f4": ("raw", "f4", RAW),
    "raw c8": ("raw", "c8", RAW),
    "raw skipping frames": ("raw", "<u2", {**RAW, "sync_offset": 4}),
    "raw inserting frames": ("raw", "<u2", {**RAW, "sync_offset": -4}),
    "raw with more positions than frames": ("raw", "<u2", {**RAW, "nav_shape": (4, 5)}),
    "raw with fewer positions than frames": ("raw", "<u2", {**RAW, "nav_shape": (2, 2), "sync_offset": 3}),
    "raw of another sig shape": ("raw", "<u2", {"nav_shape": (15,), "sig_shape": (77,)}),
    "raw with bytes left over": ("raw", "<u2", {"nav_shape": (3, 3), "sig_shape": (7, 13)}),
    "npy <u2": ("npy", "<u2", {}),
    "npy >u2": ("npy", ">u2", {}),
    "npy i4": ("npy", "<i4", {}),
    "npy f8": ("npy", "f8", {}),
    "npy one sig axis": ("npy", "<u2", {"sig_dims": 1}),
    "npy a subset": ("npy", "<u2", {"nav_shape": (2, 4)}),
    "npy of another shape": ("npy", "<u2", {"nav_shape": (5, 3), "sig_shape": (11, 7)}),
    "npy of another number of axes": ("npy", "<u2", {"sig_dims": None, "nav_shape": (15,), "sig_shape": (77,)}),
    "npy inserting frames": ("npy", "<u2", {"sync_offset": -4}),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Files of all cases, and LiberTEM's frames of each."""
    folder = tmp_path_factory.mktemp("libertem")
    jobs = []
    for number, (format, dtype, parameters) in enumerate(CASES.values()):
        array = random_items(number, (3, 5, 7, 11), dtype)
        path = folder / f"{number}.{format}"
        if format == "npy":
            np.save(path, array)
        else:
            path.write_bytes(array.tobytes())
            parameters = {**parameters, "dtype": dtype}
        jobs.append({"format": format, "path": str(path), "parameters": parameters, "result": str(folder / f"{number}.npz")})
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_WITH_LIBERTEM], input=json.dumps(jobs), text=True,
                          capture_output=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(CASES, jobs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_both_read_the_same(theirs, case):
    job = theirs[case]
    with np.load(job["result"]) as found:
        frames, nav, sig = found["frames"], tuple(found["nav"]), tuple(found["sig"])
    ds = gpuio.load(job["format"], path=job["path"], device="cpu", **job["parameters"])
    assert (ds.shape.nav.to_tuple(), ds.shape.sig.to_tuple()) == (nav, sig)
    assert_same(ds[...].reshape(-1, *sig), frames)
