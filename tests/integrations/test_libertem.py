"""gpuio under LiberTEM's real runner, beside LiberTEM's own readers, and against the arrays before encoding.

Frames hold small whole numbers, and so do masks and corrections, so that all sums are exact and results are compared bit for bit.
What needs a GPU is run on a simulated one: gpuio's CUDA engine with its kernels on the host. CuPy itself is not run.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import sparse

import gpuio
from gpuio import engine as engines
from gpuio import synth
from tests.integrations import libertem_runs as runs
from tests.kernels.cuda_on_host import host_engine, why_no_compiler

pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")

from libertem.api import Context
from libertem.common import Shape
from libertem.contrib.daskadapter import make_dask_array
from libertem.executor.pipelined import PipelinedExecutor
from libertem.io import dataset as registry
from libertem.io.corrections import CorrectionSet
from libertem.io.dataset import base as peer
from libertem.udf import UDF
from libertem.udf.base import _execution_plan
from libertem.udf.raw import PickUDF
from libertem.udf.sum import SumUDF

pytestmark = pytest.mark.filterwarnings("ignore:'where' used without 'out'")        # by LiberTEM's CoMUDF

NAV, PARTITIONS = (5, 7), 4


@dataclass(frozen=True)
class Case:
    """A scan in one format."""

    format: str
    sig: tuple[int, int]
    top: int
    options: dict[str, Any] = field(default_factory=dict)       # of the writer
    opened: int = 0                                             # which of the written files
    parameters: dict[str, Any] = field(default_factory=dict)    # of load
    dark: int = 0                                               # of every pixel, in the files: the data set's own correction


CASES = {
    "mib": Case("mib", (256, 256), 4096, {"kind": "R12", "frames_per_file": 9}),
    "raw": Case("raw", (37, 41), 60000, {"dtype": ">u2"}, 0, {"nav_shape": NAV, "sig_shape": (37, 41), "dtype": ">u2"}),
    "npy": Case("npy", (29, 31), 30000, {"dtype": "i2"}),
    "blo": Case("blo", (32, 32), 256),
    "frms6": Case("frms6", (44, 36), 10000, {"dark": 7, "frames_per_file": 11}, dark=7),
}


@dataclass(frozen=True)
class Run:
    """How a scan is loaded and processed."""

    sync_offset: int = 0
    roi: bool = False
    corrected: bool = False


RUNS = {
    "plain": Run(),
    "roi": Run(roi=True),
    "skipping": Run(sync_offset=3),
    "inserting": Run(sync_offset=-4),
    "inserting roi": Run(sync_offset=-4, roi=True),
    "corrected": Run(corrected=True),
}
#: Runs of each format; the first one gets them all.
TABLE = [(name, run) for name in CASES for run in RUNS if name == "mib" or run in ("plain", "inserting roi", "corrected")]
#: Which LiberTEM reads wrong.
CASES["r24"] = Case("mib", (256, 256), 1 << 24, {"kind": "R24"})


def make_roi() -> np.ndarray:
    return np.random.default_rng(3).random(NAV) < 0.4


def make_maps(sig: tuple[int, int]) -> dict[str, np.ndarray]:
    """Corrections whose results are exact: whole dark counts, gains that are powers of two, excluded pixels with eight neighbours."""
    rng = np.random.default_rng(4)
    excluded = np.zeros(sig, dtype=bool)
    excluded[sig[0] // 2, 3] = excluded[5, sig[1] // 2] = True
    return {"dark": rng.integers(0, 50, sig).astype("f4"), "gain": rng.choice([0.5, 1, 2], sig).astype("f4"), "excluded_pixels": excluded}


@dataclass
class Scan:
    case: Case
    path: str
    stored: np.ndarray                  # the frames before encoding
    theirs: dict[str, dict[str, np.ndarray]]

    @property
    def parameters(self) -> dict[str, Any]:
        return {"path": self.path, "num_partitions": PARTITIONS, **self.case.parameters}

    def truth(self, run: Run) -> dict[str, np.ndarray]:
        """Results from the array, by definition."""
        n = len(self.stored)
        frames = np.zeros(self.stored.shape)
        for i in range(n):
            if 0 <= i + run.sync_offset < n:
                frames[i] = self.stored[i + run.sync_offset]
                if not run.corrected:
                    frames[i] -= self.case.dark
                else:
                    maps = make_maps(self.case.sig)
                    frames[i] = (frames[i] - maps["dark"]) * maps["gain"]
                    for y, x in np.argwhere(maps["excluded_pixels"]):
                        square = frames[i, y - 1:y + 2, x - 1:x + 2]
                        frames[i, y, x] = (square.sum() - square[1, 1]) / 8
        if run.roi:
            frames = frames[make_roi().ravel()]
        masks = runs.masks(self.case.sig)
        y, x = np.indices(self.case.sig)
        with np.errstate(invalid="ignore"):
            com = np.stack([(frames * axis).sum(axis=(1, 2)) / frames.sum(axis=(1, 2)) for axis in (y, x)], axis=1)
        return {"frames": frames, "sum": frames.sum(axis=0), "sumsig": frames.sum(axis=(1, 2)),
                "masks": frames.reshape(len(frames), -1) @ masks.reshape(3, -1).T, "com": com}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scan]:
    """Write all files, have LiberTEM's own readers process them."""
    folder = tmp_path_factory.mktemp("libertem")
    scans, jobs = {}, []
    for number, (name, case) in enumerate(CASES.items()):
        frames = np.random.default_rng(number).integers(0, case.top, (35, *case.sig), dtype="u4")
        paths = synth.write(case.format, str(folder / f"{name}.{case.format}"), [frames], nav_shape=NAV, sig_shape=case.sig, **case.options)
        scans[name] = Scan(case, paths[case.opened], frames, {})
    table = [*TABLE, ("r24", "plain")]
    for name, run_name in table:
        run, scan = RUNS[run_name], scans[name]
        maps = make_maps(scan.case.sig) if run.corrected else {}
        if run.roi:
            maps["roi"] = make_roi()
        at = folder / f"{name} {run_name}"
        np.savez(f"{at} maps.npz", **maps)
        jobs.append({"format": scan.case.format, "parameters": {**scan.parameters, "sync_offset": run.sync_offset},
                     "maps": f"{at} maps.npz" if maps else None, "result": f"{at}.npz"})
    for (name, run_name), found in zip(table, runs.with_own_readers(jobs), strict=True):
        scans[name].theirs[run_name] = found
    return scans


@pytest.fixture(scope="module")
def inline() -> Any:
    with Context.make_with("inline") as ctx:
        yield ctx


def check(scan: Scan, run_name: str, ctx: Any) -> None:
    """gpuio under `ctx` gives what LiberTEM's reader gives and what the array says."""
    run = RUNS[run_name]
    ds = gpuio.libertem.load(ctx, scan.case.format, **scan.parameters, sync_offset=run.sync_offset)
    found = runs.run(ctx, ds, make_roi() if run.roi else None, runs.corrections_of(make_maps(scan.case.sig) if run.corrected else None))
    truth = scan.truth(run)
    for name in ("frames", "sum", "sumsig", "masks"):
        assert found[name].shape == truth[name].shape
        assert np.array_equal(found[name], truth[name]), name
        assert np.array_equal(found[name], scan.theirs[run_name][name]), name
    some = truth["sumsig"] != 0         # a blank frame has no centre; LiberTEM leaves any number there
    assert np.allclose(found["com"][some], truth["com"][some], rtol=1e-6)
    assert np.allclose(found["com"][some], scan.theirs[run_name]["com"][some], rtol=1e-9)
    assert len(found["frames"]) > 10 and found["masks"].any()


@pytest.mark.parametrize(("name", "run_name"), TABLE)
def test_results_are_those_of_the_array_and_of_libertems_own_reader(scans, inline, name, run_name):
    check(scans[name], run_name, inline)


@pytest.mark.parametrize("executor", ["threads", "dask", "pipelined"])
def test_every_executor(scans, executor):
    makers = {
        "threads": lambda: Context.make_with("threads"),
        "dask": lambda: Context.make_with("dask", cpus=2, gpus=0),
        "pipelined": lambda: Context(PipelinedExecutor(PipelinedExecutor.make_spec(cpus=range(2), cudas=[]), pin_workers=False)),
    }
    with makers[executor]() as ctx:
        for run_name in RUNS:
            check(scans["mib"], run_name, ctx)


def test_where_libertem_reads_24_bit_frames_wrong(scans, inline):
    scan = scans["r24"]
    ours, theirs = runs.run(inline, gpuio.libertem.load(inline, "mib", **scan.parameters)), scan.theirs["plain"]
    truth = scan.truth(Run())
    for name in ("frames", "sum", "sumsig", "masks"):
        assert np.array_equal(ours[name], truth[name])
        assert not np.array_equal(theirs[name], truth[name])
    assert np.array_equal(theirs["frames"][0], truth["frames"][0])


class PartitionUDF(UDF):
    """Sum and maximum of each frame, a whole partition at a time."""

    def get_preferred_input_dtype(self) -> Any:
        return np.float64

    def get_result_buffers(self) -> dict[str, Any]:
        return {"found": self.buffer(kind="nav", extra_shape=(2,), dtype="f8")}

    def process_partition(self, partition: np.ndarray) -> None:
        self.results.found[:, 0] = partition.sum(axis=(1, 2))
        self.results.found[:, 1] = partition.max(axis=(1, 2))


@pytest.mark.parametrize("run_name", ["plain", "skipping", "inserting", "inserting roi"])
def test_processing_by_partition_sees_blank_frames_as_zeros(scans, inline, run_name):
    scan, run = scans["raw"], RUNS[run_name]
    ds = gpuio.libertem.load(inline, "raw", **scan.parameters, sync_offset=run.sync_offset)
    found = inline.run_udf(ds, PartitionUDF(), roi=make_roi() if run.roi else None)["found"].raw_data
    frames = scan.truth(run)["frames"]
    assert np.array_equal(found, np.stack([frames.sum(axis=(1, 2)), frames.max(axis=(1, 2))], axis=1))


@pytest.mark.parametrize("run_name", ["plain", "inserting", "inserting roi"])
def test_dask_arrays_made_by_libertem(scans, inline, run_name):
    scan, run = scans["raw"], RUNS[run_name]
    ds = gpuio.libertem.load(inline, "raw", **scan.parameters, sync_offset=run.sync_offset)
    array, workers = make_dask_array(ds, dtype="u2", roi=make_roi() if run.roi else None)
    found = array.compute(scheduler="synchronous")
    assert found.dtype == "u2"
    assert len(workers) == PARTITIONS
    assert np.array_equal(found.reshape(-1, *scan.case.sig), scan.truth(run)["frames"])


def test_analyses_map_and_progress(scans, inline):
    scan = scans["raw"]
    ds = gpuio.libertem.load(inline, "raw", **scan.parameters)
    frames = scan.truth(Run())["frames"].reshape(*NAV, *scan.case.sig)
    assert np.allclose(inline.run(inline.create_sum_analysis(ds)).intensity.raw_data, frames.sum(axis=(0, 1)))
    assert np.array_equal(inline.run(inline.create_pick_analysis(ds, x=3, y=2)).intensity.raw_data, frames[2, 3])
    point = inline.run(inline.create_point_analysis(ds, x=11, y=23)).intensity.raw_data
    assert np.array_equal(point, frames[:, :, 23, 11])
    com = inline.run(inline.create_com_analysis(ds, cx=0, cy=0))
    axis = np.arange(scan.case.sig[1])
    assert np.allclose(com.x.raw_data, (frames * axis).sum(axis=(2, 3)) / frames.sum(axis=(2, 3)), rtol=1e-5)
    assert np.array_equal(np.array(inline.map(ds, np.max)), frames.max(axis=(2, 3)))
    parts = [part.damage.data.sum() for part in inline.run_udf_iter(ds, SumUDF(), progress=True)]
    assert parts == sorted(parts)
    assert (len(parts), parts[-1]) == (PARTITIONS, 35)


def test_facts(scans, inline):
    scan = scans["mib"]
    ds = gpuio.libertem.load(inline, "mib", **scan.parameters, sync_offset=-4)
    assert isinstance(ds, peer.DataSet)
    assert isinstance(ds, gpuio.libertem.DataSet)
    assert (tuple(ds.shape), ds.shape.sig.dims, ds.dtype, ds.meta.raw_dtype) == ((*NAV, 256, 256), 2, "u2", "u2")
    assert (ds.meta.image_count, ds.meta.sync_offset, ds.meta.shape) == (35, -4, ds.shape)
    assert ds.get_sync_offset_info() == {
        "frames_skipped_start": 0, "frames_ignored_end": 4, "frames_inserted_start": 4, "frames_inserted_end": 0}
    named = {entry["name"]: entry["value"] for entry in ds.diagnostics}
    assert named["Number of partitions"] == str(PARTITIONS)
    assert named["Number of blank frames inserted at the beginning"] == 4
    assert named["exposure_s"] == "0.001"
    key = ds.get_cache_key()
    assert key["sync_offset"] == -4
    assert key != gpuio.libertem.load(inline, "mib", **scan.parameters).get_cache_key()
    assert ds.data.format == "mib"
    assert "scan" not in repr(ds) or "mib" in repr(ds)


def test_partitions_pickle_small(tmp_path, inline):
    frames = np.random.default_rng(8).integers(0, 999, (600, 5, 7), dtype="u2")
    files = synth.write("raw", str(tmp_path / "scan.raw"), [frames], nav_shape=(20, 30), sig_shape=(5, 7), frames_per_file=1)
    many = gpuio.libertem.load(inline, "raw", path=files, nav_shape=(20, 30), sig_shape=(5, 7), dtype="u2", num_partitions=200)
    text = pickle.dumps(list(many.get_partitions())[77])
    assert len(text) < 5000
    back = pickle.loads(text)
    assert np.array_equal(back.get_macrotile("u2").data, frames[231:234])
    assert len(pickle.dumps(pickle.loads(pickle.dumps(many)))) < 200 * len(files)


def test_names_are_taken_and_given_back(scans, inline):
    own = dict(registry.filetypes)
    extensions = registry.build_extension_map()
    for _ in range(2):
        gpuio.libertem.enable()
        gpuio.libertem.enable()
        assert {name: registry.filetypes[name] for name in gpuio.libertem.LEFT_ALONE} == {n: own[n] for n in gpuio.libertem.LEFT_ALONE}
        named = inline.load("mib", path=scans["mib"].path)
        found = inline.load("auto", path=Path(scans["npy"].path))
        assert type(named) is gpuio.libertem.MIBDataSet
        assert type(found) is gpuio.libertem.NPYDataSet
        assert np.array_equal(found.data[...].reshape(scans["npy"].stored.shape), scans["npy"].stored)
        assert registry.build_extension_map()["mib"] == ["mib"]
        gpuio.libertem.disable()
        gpuio.libertem.disable()
        assert registry.filetypes == own
        assert registry.build_extension_map() == extensions
    assert isinstance(inline.load("npy", path=scans["npy"].path), peer.DataSet)
    assert not isinstance(inline.load("npy", path=scans["npy"].path), gpuio.libertem.DataSet)


def test_names_that_somebody_else_has_taken_are_left_alone(monkeypatch):
    monkeypatch.setattr(registry, "filetypes", dict(registry.filetypes))
    gpuio.libertem.enable()
    registry.register_dataset_cls("npy", "another.Reader")
    registry.unregister_dataset_cls("raw")
    gpuio.libertem.disable()
    assert registry.filetypes["npy"] == "another.Reader"
    assert "raw" not in registry.filetypes
    assert registry.filetypes["mib"] == "libertem.io.dataset.mib.MIBDataSet"


def test_ways_to_load(scans, inline):
    scan = scans["npy"]
    opened = gpuio.open(scan.path)
    for ds in (gpuio.libertem.load(inline, "auto", path=scan.path), gpuio.libertem.load(inline, "npy", Path(scan.path)),
               gpuio.libertem.load(inline, opened), inline.load(gpuio.libertem.DataSet, opened)):
        assert np.array_equal(inline.run_udf(ds, SumUDF(dtype="float64"))["intensity"].data, scan.truth(Run())["sum"])


@pytest.mark.parametrize(("dtype", "nav", "sig"), [
    ("i4", (3, 4, 5), (41,)), ("c8", (4, 5), (9, 7)), ("?", (4, 5), (9, 7)), ("u1", (17,), (5, 3, 7)),
])
def test_axes_and_dtypes(tmp_path, inline, dtype, nav, sig):
    values = np.random.default_rng(13).integers(0, 99, (*nav, *sig))
    array = (values % 2 if dtype == "?" else values * (1 + 2j) if dtype == "c8" else values).astype(dtype)
    np.save(tmp_path / "scan.npy", array)
    ds = gpuio.libertem.load(inline, "npy", path=tmp_path / "scan.npy", sig_dims=len(sig), num_partitions=3)
    assert (ds.dtype, tuple(ds.shape), ds.shape.nav.dims) == (dtype, (*nav, *sig), len(nav))
    total = inline.run_udf(ds, SumUDF())["intensity"].data
    assert np.array_equal(total, array.sum(axis=tuple(range(len(nav)))))
    roi = np.random.default_rng(14).random(nav) < 0.4
    assert np.array_equal(inline.run_udf(ds, PickUDF(), roi=sparse.COO.from_numpy(roi))["intensity"].data, array[roi])


def test_data_sets_that_are_no_files_or_reduced(scans, inline):
    scan = scans["npy"]
    frames = scan.stored.astype("u2").reshape(*NAV, *scan.case.sig)
    for data, expected in [
        (gpuio.load("memory", data=frames), frames),
        (gpuio.load("dask", dask.array.from_array(frames, chunks=(2, 7, 29, 31)), sig_dims=2), frames),
        (gpuio.open(scan.path, crop=(slice(3, 23), slice(2, 31))), frames[:, :, 3:23, 2:31]),
        (gpuio.open(scan.path, bin_sig=(1, 31)), frames.sum(axis=3, keepdims=True)),
    ]:
        ds = gpuio.libertem.load(inline, data, num_partitions=PARTITIONS)
        assert np.array_equal(inline.run_udf(ds, SumUDF(dtype="float64"))["intensity"].data, expected.sum(axis=(0, 1)))
        assert tuple(ds.shape) == expected.shape


def test_io_backends_of_libertem_become_those_of_gpuio(scans, inline):
    scan = scans["raw"]
    theirs = {"buffered": peer.BufferedBackend(max_buffer_size=12345), "mmap": peer.MMapBackend(enable_readahead_hints=True),
              "direct": peer.DirectBackend()}
    ours = {"buffered": gpuio.base.BufferedBackend(12345), "mmap": gpuio.base.MMapBackend(True), "direct": gpuio.base.DirectBackend()}
    for name, backend in theirs.items():
        ds = gpuio.libertem.load(inline, "raw", **scan.parameters, io_backend=backend)
        assert ds.get_io_backend() == ours[name]
        assert next(ds.get_partitions()).get_io_backend() == ours[name]
    ds = gpuio.libertem.load(inline, "raw", **scan.parameters, io_backend=ours["buffered"])
    assert np.array_equal(runs.run(inline, ds)["frames"], scan.stored)
    part = next(ds.get_partitions())
    part.set_io_backend(theirs["mmap"])
    assert part.get_io_backend() == ours["mmap"]
    with pytest.raises(peer.DataSetException, match="unknown to gpuio"):
        gpuio.libertem.load(inline, "raw", **scan.parameters, io_backend="fast")


def test_errors_are_of_libertems_class(scans, inline, tmp_path):
    (tmp_path / "scan.mib").write_bytes(b"MQ1,000001")
    (tmp_path / "noise.bin").write_bytes(bytes(range(7)) * 999)
    for format, path, text in [
        ("mib", "scan.mib", r"scan\.mib"), ("auto", "noise.bin", "no format of gpuio recognises"), ("no", "scan.mib", "'no' is unknown"),
    ]:
        with pytest.raises(peer.DataSetException, match=text):
            gpuio.libertem.load(inline, format, path=str(tmp_path / path))
    with pytest.raises(peer.DataSetException, match="sync_offset should be in"):
        gpuio.libertem.load(inline, "raw", **scans["raw"].parameters, sync_offset=35)
    with pytest.raises(peer.DataSetException, match="not initialized"):
        _ = gpuio.libertem.MIBDataSet(path="scan.mib").shape


def test_corrections_are_converted_once(scans, inline, monkeypatch):
    made = []
    real = gpuio.base.CorrectionSet
    monkeypatch.setattr(gpuio.base, "CorrectionSet", lambda *args, **kwargs: made.append(1) or real(*args, **kwargs))
    ds = gpuio.libertem.load(inline, "raw", **scans["raw"].parameters)
    runs.run(inline, ds, None, runs.corrections_of(make_maps(scans["raw"].case.sig)))
    assert len(made) == 1
    carried = gpuio.libertem.load(inline, "frms6", **scans["frms6"].parameters)
    runs.run(inline, carried)
    assert len(made) == 1


def test_frames_are_cut_into_bands_that_corrections_do_not_see(tmp_path, inline):
    """Excluded pixels at borders of bands are repaired from both sides."""
    frames = np.random.default_rng(9).integers(0, 4096, (21, 512, 512), dtype="u2")
    hdr = synth.write("mib", str(tmp_path / "quad.mib"), [frames], nav_shape=(3, 7), sig_shape=(512, 512), layout="2x2")[0]
    ds = gpuio.libertem.load(inline, "mib", path=hdr)
    scheme = negotiated(ds)
    assert tuple(scheme.shape) == (16, 128, 512)
    excluded = np.zeros((512, 512), dtype=bool)
    excluded[[127, 128, 300], [9, 200, 511]] = True
    dark = np.random.default_rng(10).integers(0, 50, (512, 512)).astype("f4")
    corrections = CorrectionSet(dark=dark, excluded_pixels=excluded)
    total = inline.run_udf(ds, SumUDF(dtype="float64"), corrections=corrections)["intensity"].data
    expected = gpuio.open(hdr).sum_nav(corrections=gpuio.CorrectionSet(dark, None, excluded))
    assert np.allclose(total, expected, rtol=1e-7)
    plain = (frames - dark.astype("f8")).sum(axis=0)
    assert np.array_equal(total[~excluded], plain[~excluded])
    assert np.isclose(total[127, 9], (plain[126:129, 8:11].sum() - plain[127, 9]) / 8)


def negotiated(ds: Any, dtype: Any = "float32") -> peer.TilingScheme:
    """The tiling scheme that LiberTEM's runner makes for processing by tile."""
    return peer.Negotiator().get_scheme(udfs=[SumUDF()], dataset=ds, read_dtype=np.dtype(dtype),
                                        approx_partition_shape=next(ds.get_partitions()).shape)


class HostSum(SumUDF):
    """Wants NumPy."""

    def get_backends(self) -> Any:
        return (self.BACKEND_NUMPY,)


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_a_simulated_gpu(scans, inline, tmp_path, monkeypatch):
    """CuPy is offered first and decoded by the CUDA engine of the worker's device; NumPy is decoded by the CPU's, in smaller stacks."""
    scan = scans["raw"]
    engine = host_engine(tmp_path, kinds=lambda file: ["decode<swap<u16>, f32, f32, 0>", "decode<swap<u16>, f32, f32, 3>"])
    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:1"), engine)
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    monkeypatch.setenv("LIBERTEM_USE_CUDA", "1")
    launches = engine._runtime.launches
    ds = gpuio.libertem.load(inline, "raw", **scan.parameters, sync_offset=-4)
    assert ds.array_backends == ds.meta.array_backends == (UDF.BACKEND_CUPY, UDF.BACKEND_NUMPY, UDF.BACKEND_CUDA)
    assert ds.get_max_io_size() == 128 << 20
    assert tuple(negotiated(ds).shape) == (8, 37, 41)
    assert _execution_plan([SumUDF()], ds.meta, "cuda")[0] == UDF.BACKEND_CUPY
    for udf, device in ((HostSum(), "cuda"), (SumUDF(), "cpu")):
        assert _execution_plan([udf], ds.meta, device)[0] in (UDF.BACKEND_NUMPY, UDF.BACKEND_CUDA)      # both are host memory

    maps = make_maps(scan.case.sig)
    del maps["excluded_pixels"]
    frames = scan.truth(Run(sync_offset=-4))["frames"]
    for corrections in (None, CorrectionSet(**maps)):
        found = np.zeros(frames.shape)
        for part in ds.get_partitions():
            part.set_corrections(corrections)
            for tile in part.get_tiles(negotiated(ds), "float32", array_backend=UDF.BACKEND_CUPY):
                found[tile.tile_slice.get()] = tile.data
        expected = frames if corrections is None else (frames - maps["dark"]) * maps["gain"]
        assert np.array_equal(found[4:], expected[4:])
        assert not found[:4].any()
    last = list(ds.get_partitions())[-1]
    assert np.array_equal(last.get_macrotile("float32").data, frames[26:])
    assert launches

    launches.clear()
    assert np.array_equal(last.get_macrotile("float32", array_backend=UDF.BACKEND_NUMPY).data, frames[26:])
    assert np.array_equal(inline.run_udf(ds, HostSum(dtype="float64"))["intensity"].data, frames.sum(axis=0))
    assert not launches
    kept_off = gpuio.libertem.load(inline, "raw", **scan.parameters, device="cpu")
    assert kept_off.array_backends == (UDF.BACKEND_NUMPY, UDF.BACKEND_CUDA)


def test_workers_of_the_cpu_cut_the_stacks_made_for_a_gpu(scans, inline):
    ds = gpuio.libertem.load(inline, "mib", **{**scans["mib"].parameters, "num_partitions": 1})
    scheme = peer.TilingScheme.make_for_shape(Shape((35, 256, 256), sig_dims=2), ds.shape)
    tiles = [(tile.tile_slice.origin[0], tile.data.copy()) for tile in next(ds.get_partitions()).get_tiles(scheme, "float32")]
    assert [(at, len(data)) for at, data in tiles] == [(0, 16), (16, 16), (32, 3)]
    assert np.array_equal(np.concatenate([data for _, data in tiles]), scans["mib"].stored)


def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    frames = np.random.default_rng(11).integers(0, 4096, (6, 256, 256), dtype="u2")
    synth.write("mib", str(tmp_path / "scan.mib"), [frames], nav_shape=(2, 3), sig_shape=(256, 256))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in (runs.ROOT / "docs" / "libertem.md").read_text().split("```python\n")[1:]:
        exec(block.partition("```")[0], names)
    assert np.array_equal(names["pattern"], frames.sum(axis=0))
    assert isinstance(names["ds"], gpuio.libertem.MIBDataSet)


def test_without_libertem_a_line_says_what_to_install():
    script = "import sys; sys.modules['libertem'] = None\nimport gpuio\ntry: gpuio.libertem\nexcept gpuio.BackendUnavailable as e: print(e)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=runs.ROOT)
    line, = done.stdout.splitlines()
    assert line.endswith("; install gpuio[libertem]")
