"""Arrays in memory, dask arrays and sparse raw files as gpuio and LiberTEM read them, wherever LiberTEM reads them right.

LiberTEM runs in a process of its own and uncompiled: few frames are read in less time than it takes to compile its readers.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.items import assert_same, random_items

pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")
da = pytest.importorskip("dask.array", reason="dask is not installed; it is part of the test extra")

NAV, SIG = (5, 7), (11, 13)

READ_ARRAYS = """
import json, sys
import dask.array as da, numpy as np
from libertem.api import Context
from libertem.udf.raw import PickUDF

with Context.make_with("inline") as ctx:
    for job in json.load(sys.stdin):
        parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in job["parameters"].items()}
        if job["format"] == "raw_csr":
            ds = ctx.load("raw_csr", path=job["path"], **parameters)
        else:
            array = eval(job["view"], {"np": np, "da": da, "a": np.load(job["path"])})
            ds = ctx.load("memory", data=array, **parameters) if job["format"] == "memory" else ctx.load("dask", array, **parameters)
        frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
        np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
"""

#: Format, dtype, view of the stored array of shape NAV + SIG, parameters.
CASES = {
    "memory": ("memory", "u2", "a", {}),
    "memory, Fortran order": ("memory", "i4", "np.asfortranarray(a)", {}),
    "memory, every second position": ("memory", "f4", "a[:, ::2]", {}),
    "memory, backwards": ("memory", "f8", "a[::-1, :, ::-1, ::-1]", {}),
    "memory, complex": ("memory", "c8", "a", {}),
    "memory, bool": ("memory", "?", "a", {}),
    "memory, of another shape": ("memory", "u2", "a", {"nav_shape": (7, 5), "sig_shape": (13, 11)}),
    "memory, one sig axis": ("memory", "u2", "a", {"sig_dims": 1}),
    "memory, tiles of a shape": ("memory", "u2", "a", {"tileshape": (3, 11, 13), "num_partitions": 2}),
    "dask": ("dask", "u2", "da.from_array(a, chunks=(1, -1, -1, -1))", {"sig_dims": 2, "min_size": 1}),
    "dask, chunks of the detector": ("dask", "f4", "da.from_array(a, chunks=(2, 3, 4, 5))", {"sig_dims": 2, "min_size": 1}),
    "dask, another order": ("dask", "i2", "da.from_array(a, chunks=(-1, 1, -1, -1))",
                            {"sig_dims": 2, "min_size": 1, "preserve_dimensions": False}),
    "dask, one partition": ("dask", "c8", "da.from_array(a, chunks=(1, 1, -1, -1))", {"sig_dims": 2}),
}


#: dtypes of bounds, pixel numbers and values; parameters.
SPARSE = {
    "sparse": (("<i4", "<i4", "<u2"), {}), "sparse, big-endian": ((">i8", ">u2", ">f4"), {}),
    "sparse, complex": (("<u8", "<u4", "<c8"), {}),
    "sparse, skipping frames": (("<i8", "<u2", "<u2"), {"sync_offset": 3}),
}


def sparse_scan(dtype):
    share = np.random.default_rng(6).random(NAV + SIG) < 0.1
    return np.where(share, random_items(6, NAV + SIG, np.dtype(dtype).newbyteorder("=")), 0).astype(np.dtype(dtype).newbyteorder("="))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """LiberTEM's frames of each case."""
    folder = tmp_path_factory.mktemp("libertem")
    jobs = {}
    for number, (name, (format, dtype, view, parameters)) in enumerate(CASES.items()):
        path = folder / f"{number}.npy"
        np.save(path, random_items(number, NAV + SIG, dtype))
        jobs[name] = {"format": format, "path": str(path), "view": view, "parameters": parameters, "result": str(folder / f"{number}.npz")}
    for number, (name, (dtypes, parameters)) in enumerate(SPARSE.items()):
        indptr, indices, data = dtypes
        scan = sparse_scan(data)
        path, *_ = synth.write("raw_csr", folder / f"{number}.toml", [scan.reshape(-1, *SIG)], nav_shape=NAV, sig_shape=SIG, dtype=data,
                               indptr_dtype=indptr, indices_dtype=indices)
        jobs[name] = {"format": "raw_csr", "path": path, "parameters": parameters, "result": str(folder / f"sparse{number}.npz")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", READ_ARRAYS], input=json.dumps(list(jobs.values())), text=True,
                          capture_output=True, check=False, timeout=280, env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return jobs


@pytest.mark.parametrize("case", CASES)
def test_both_read_the_same(theirs, case):
    job = theirs[case]
    array = eval(job["view"], {"np": np, "da": da, "a": np.load(job["path"])})
    ds = gpuio.load(job["format"], *([array] if job["format"] == "dask" else []), device="cpu",
                    **({"data": array} if job["format"] == "memory" else {}), **job["parameters"])
    with np.load(job["result"]) as found:
        assert (ds.shape.nav.to_tuple(), ds.shape.sig.to_tuple()) == (tuple(found["nav"]), tuple(found["sig"]))
        frames = found["frames"]
    ours = ds[...].reshape(-1, *ds.shape.sig)
    assert_same(ours, frames)


def test_chunks_are_merged_alike():
    from libertem.executor.inline import InlineJobExecutor
    from libertem.io.dataset.dask import DaskDataSet as Theirs

    from gpuio.formats.dask import DaskDataSet as Ours

    logging.getLogger("libertem.io.dataset.dask").setLevel(logging.CRITICAL)
    rng, executor = np.random.default_rng(3), InlineJobExecutor()
    counted = 0
    for _ in range(120):
        nav = rng.integers(1, 14, rng.integers(1, 4)).tolist()
        ends = [np.unique(np.append(np.arange(1, n + 1) if rng.random() < 0.4 else rng.integers(1, n + 1, rng.integers(0, n + 1)), n))
                for n in nav]
        chunks = (*(tuple(np.diff(e, prepend=0).tolist()) for e in ends), (4, 4), (2, 1))
        preserve = bool(rng.integers(2))
        if not preserve and len({len(axis) for axis in chunks[:-2]}) < len(nav):
            continue            # of axes with as many chunks, LiberTEM puts the last first; they need not move
        array = da.zeros((*nav, 8, 3), chunks=chunks, dtype="f4")
        least = (0, 96, 300, 1000, 5000, None, float("inf"))[rng.integers(7)]
        theirs, ours = (cls(array, sig_dims=2, min_size=least, preserve_dimensions=preserve).initialize(executor) for cls in (Theirs, Ours))
        assert (ours.metadata["partition_chunks"], tuple(ours.shape)) == (theirs.array.chunks, tuple(theirs.shape))
        counted += 1
    assert counted > 60


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_files_hold_the_same_frames(theirs, case):
    job, offset = theirs[case], SPARSE[case][1].get("sync_offset", 0)
    expected = sparse_scan(SPARSE[case][0][2]).reshape(-1, *SIG)[offset:]
    ours = gpuio.load("raw_csr", path=job["path"], device="cpu", **job["parameters"])[...].reshape(-1, *SIG)
    with np.load(job["result"]) as found:
        np.testing.assert_array_equal(found["frames"][:len(expected)], expected)
    np.testing.assert_array_equal(ours[:len(expected)], expected)
