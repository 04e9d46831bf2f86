"""Data sets as dask arrays: equal to the frames that were written, on every scheduler; a graph that stays small."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import dask.array
import distributed
import h5py
import numpy as np
import pytest

import gpuio
from gpuio import engine as engines
from gpuio.integrations._chunks import nav_chunks
from gpuio.integrations._pixels import Pixels
from tests.integrations.scans import NAMES
from tests.kernels.cuda_on_host import host_engine, why_no_compiler


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sync_offset", [0, 5, -9])
def test_every_pixel_is_the_one_written_and_blanks_are_zero(scan, name, sync_offset):
    ds, truth = scan(name).open(sync_offset=sync_offset), scan(name).truth(sync_offset)
    for chunks in ("auto", "6 kB", 3, (2,) * (truth.ndim - 2) + (5, -1), {0: 4}):
        array = ds.to_dask(chunks=chunks)
        assert (array.shape, array.dtype, type(array._meta)) == (truth.shape, truth.dtype, np.ndarray)
        computed = array.compute(scheduler="threads")
        assert computed.dtype == truth.dtype
        np.testing.assert_array_equal(computed, truth)


def test_only_what_is_sliced_is_read(scan, monkeypatch):
    ds, truth = scan("mib").open(), scan("mib").truth()
    read = []
    slice_of = Pixels.__getitem__
    monkeypatch.setattr(Pixels, "__getitem__", lambda self, key: read.append(slice_of(self, key)) or read[-1])
    array = ds.to_dask(chunks=(4, 11))
    read.clear()
    picked = array[2:7:2, 3, 5:9, ::2].compute(scheduler="synchronous")
    np.testing.assert_array_equal(picked, truth[2:7:2, 3, 5:9, ::2])
    assert sum(part.size for part in read) == picked.size


@pytest.mark.parametrize("name", ["mib", "line"])
def test_any_slice_of_the_array_is_that_of_the_frames(scan, name):
    rng = np.random.default_rng(6)
    ds, truth = scan(name).open(sync_offset=3), scan(name).truth(3)
    array = ds.to_dask(chunks=(4,) * (truth.ndim - 2) + (7, 13))

    def index(n):
        kinds = (lambda: int(rng.integers(-n, n)), lambda: slice(*sorted(rng.integers(-n, n, 2).tolist()), int(rng.integers(1, 4))),
                 lambda: slice(None, None, int(rng.choice([-2, -1, 3]))), lambda: rng.integers(-n, n, rng.integers(5)).tolist())
        return kinds[rng.integers(len(kinds))]()

    for _ in range(12):
        key = tuple(index(n) for n in truth.shape[:rng.integers(1, truth.ndim + 1)])
        expected, sliced = truth, array
        for axis, k in reversed(list(enumerate(key))):              # NumPy takes lists together, dask one at a time
            expected = expected[(*(slice(None),) * axis, np.array(k, int) if isinstance(k, list) else k)]
            sliced = sliced[(*(slice(None),) * axis, k)]
        np.testing.assert_array_equal(Pixels(ds)[key], expected)
        np.testing.assert_array_equal(sliced.compute(scheduler="synchronous"), expected)


def test_a_region_of_interest_is_a_mask_of_the_array(scan):
    ds, truth = scan("mib").open(sync_offset=4), scan("mib").truth(4)
    roi = np.random.default_rng(3).random((7, 11)) < 0.4
    frames = ds.to_dask(chunks="6 kB").reshape(77, 13, 20)[roi.ravel()]
    np.testing.assert_array_equal(frames.compute(), truth[roi])


def test_corrections_and_dtype_are_applied_in_the_chunks(scan):
    ds, truth = scan("mib").open(), scan("mib").truth().astype("f8")
    rng = np.random.default_rng(8)
    dark, gain = rng.integers(0, 50, (13, 20)).astype("f8"), rng.integers(1, 4, (13, 20)).astype("f8")
    corrections = gpuio.CorrectionSet(dark=dark, gain=gain)
    array = ds.to_dask(dtype="float64", corrections=corrections, chunks=2)
    np.testing.assert_array_equal(array.compute(), (truth - dark) * gain)
    assert ds.to_dask(corrections=corrections).dtype == ds.to_dask(dtype="f4").dtype == np.float32
    np.testing.assert_array_equal(ds.to_dask(dtype="f4").compute(), truth.astype("f4"))


def test_a_reduced_detector_and_arrays_that_are_no_files(scan):
    ds, truth = scan("mib").open(bin_sig=2), scan("mib").truth()
    blocks = truth[..., :12, :].astype("u4").reshape(7, 11, 6, 2, 10, 2).sum(axis=(3, 5))
    np.testing.assert_array_equal(ds.to_dask(chunks=(3, 4)).compute(), blocks)
    assert ds.to_dask().name != scan("mib").open().to_dask().name
    for other in (gpuio.load("memory", data=truth, sig_dims=2, device="cpu"),
                  gpuio.load("dask", dask.array.from_array(truth, chunks=(3, 11, 13, 20)), sig_dims=2, device="cpu")):
        np.testing.assert_array_equal(other.to_dask(chunks=(2, 5)).compute(), truth)


# -- chunks ------------------------------------------------------------------------------------------------------------


def test_chunks_end_where_files_do(scan):
    ds = scan("mib").open()                                     # files of two lines of the scan
    frame = 13 * 20 * 2
    assert ds.to_dask(chunks=f"{33 * frame}").chunks == ((2, 2, 3), (11,), (13,), (20,))
    assert ds.to_dask(chunks=f"{34 * frame}", dtype="u4").chunks == ((1,) * 7, (11,), (13,), (20,))
    assert ds.to_dask(chunks=f"{4 * frame}").chunks == ((1,) * 7, (4, 4, 3), (13,), (20,))
    assert ds.to_dask(chunks="1").chunks == ((1,) * 7, (1,) * 11, (13,), (20,))
    line = scan("mib").open(nav_shape=(77,), sync_offset=3)     # files begin at positions 19, 41, 63
    assert line.to_dask(chunks=f"{30 * frame}").chunks[0] == (19, 22, 22, 14)
    assert line.to_dask(chunks=f"{15 * frame}").chunks[0] == (13, 13, 15, 12, 10, 14)


def test_files_inside_of_lines_cut_every_line_alike():
    starts = np.arange(0, 10 * 9, 3)
    assert nav_chunks((10, 9), 5, starts) == ((1,) * 10, (3, 3, 3))
    assert nav_chunks((10, 9), 5, starts[::2]) == ((1,) * 10, (5, 4))      # some lines only
    assert nav_chunks((1, 9), 5, np.array([0, 4])) == ((1,), (4, 5))
    assert nav_chunks((4, 5, 6), 45, np.array([30, 60, 90])) == ((1, 1, 1, 1), (5,), (6,))
    assert nav_chunks((4, 5, 6), 75, np.array([60])) == ((2, 2), (5,), (6,))


@pytest.mark.parametrize(("stored", "chunks"), [
    ((4, 6, 8, 12), ((4, 4, 4, 2), (12, 9))),                   # boxes of the scan: whole ones of them
    ((1, 8, 16, 12), ((2,) * 7, (21,))), ((1, 50, 16, 12), ((2,) * 7, (21,))),
    ((3, 21, 16, 12), ((3, 3, 3, 3, 2), (21,))),                # whole lines: chunks end where they do
])
def test_chunks_are_those_of_hdf5_taken_together(tmp_path, stored, chunks):
    truth = np.random.default_rng(2).integers(0, 999, (14, 21, 16, 12), dtype="u2")
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", data=truth, chunks=tuple(map(min, stored, truth.shape)), compression="gzip")
    ds = gpuio.open(tmp_path / "scan.h5", device="cpu")
    array = ds.to_dask(chunks=f"{(63 if stored[0] != 1 else 42) * 16 * 12 * 2}")
    assert array.chunks[:2] == chunks
    np.testing.assert_array_equal(array.compute(), truth)
    reopened = gpuio.open(tmp_path / "scan.h5", device="cpu", sync_offset=5)
    shown = np.concatenate([truth.reshape(-1, 16, 12)[5:], np.zeros((5, 16, 12), "u2")]).reshape(truth.shape)
    np.testing.assert_array_equal(reopened.to_dask(chunks="30 kB").compute(), shown)


def test_the_size_of_chunks_is_that_of_dask(scan):
    with dask.config.set({"array.chunk-size": f"{22 * 13 * 20 * 2}"}):
        assert scan("mib").open().to_dask().chunks[:2] == ((2, 2, 2, 1), (11,))
    with pytest.raises(ValueError, match="Chunks"):
        scan("mib").open().to_dask(chunks=((3, 3), -1))


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_depend_on_files_and_options_alone(scan, tmp_path):
    ds = scan("mib").open()
    name = ds.to_dask().name
    assert name == scan("mib").open().to_dask().name == pickle.loads(pickle.dumps(ds)).to_dask().name
    code = f"import gpuio; print(gpuio.open({scan('mib').path!r}, device='cpu').to_dask().name)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == name
    corrections = [gpuio.CorrectionSet(dark=np.full((13, 20), value)) for value in (1.0, 2.0)]
    others = [ds.to_dask(chunks=2), ds.to_dask(dtype="f4"), scan("mib").open(sync_offset=1).to_dask(),
              scan("mib").open(nav_shape=(11, 7)).to_dask(), *(ds.to_dask(dtype="f4", corrections=c) for c in corrections)]
    assert len({name, *(array.name for array in others)}) == 7

    path = tmp_path / "a.npy"
    np.save(path, np.arange(60, dtype="u2").reshape(3, 4, 5))
    before = gpuio.open(path).to_dask().name
    os.utime(path, ns=(1, 1))
    assert gpuio.open(path).to_dask().name != before


# -- the graph -----------------------------------------------------------------------------------------------------------

BIG = """
import pickle, resource, sys
import numpy as np
import gpuio
ds = gpuio.load("raw", path=sys.argv[1], dtype="u2", nav_shape=(320, 256), sig_shape=(256, 256), device="cpu")
array = ds.to_dask(chunks="64 MiB")
pickled = len(pickle.dumps(array))
array[0, 0, 0].compute()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
row = array[:, 201, 5].compute()
print(array.nbytes, array.npartitions, pickled, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
np.save(sys.argv[2], row)
"""


def test_ten_gibibytes_make_a_graph_of_kilobytes(tmp_path):
    path = tmp_path / "big.raw"
    truth = np.random.default_rng(4).integers(0, 65536, (320, 256), dtype="u2")
    with open(path, "wb") as file:
        for line, row in enumerate(truth):
            file.seek((((line * 256 + 201) * 256) + 5) * 512)
            file.write(row.tobytes())
        file.truncate(10 << 30)
    done = subprocess.run([sys.executable, "-c", BIG, str(path), str(tmp_path / "row.npy")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    n_bytes, partitions, pickled, grown_kib = map(int, done.stdout.split())
    assert (n_bytes, partitions) == (10 << 30, 160)
    assert pickled < 4 << 10
    assert grown_kib < 64 << 10
    np.testing.assert_array_equal(np.load(tmp_path / "row.npy"), truth)


def test_the_data_set_is_in_the_graph_once(scan):
    ds = scan("mib").open()
    few, many = (len(pickle.dumps(ds.to_dask(chunks=chunks))) for chunks in ((7, 11), (1, 1)))
    assert few < len(pickle.dumps(ds)) + 4096
    assert many < few + 1024
    graph = dict(ds.to_dask(chunks=(1, 1)).__dask_graph__())
    assert len(graph) == 77 + 1
    assert sum(len(pickle.dumps(node)) > 1500 for node in graph.values()) == 1


# -- schedulers ----------------------------------------------------------------------------------------------------------


def test_processes_compute_the_same(scan):
    array = scan("mib").open(sync_offset=-3).to_dask(chunks=3)
    np.testing.assert_array_equal(array.compute(scheduler="processes", num_workers=2), scan("mib").truth(-3))


def die_once(block: np.ndarray, folder: str) -> np.ndarray:
    """Note that a chunk was computed; the first process to compute its third one dies with all that it holds."""
    mine = [name for name in os.listdir(folder) if name.startswith(f"{os.getpid()}-")]
    if len(mine) == 2 and not os.path.exists(os.path.join(folder, "died")):
        with open(os.path.join(folder, "died"), "x") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    with open(os.path.join(folder, f"{os.getpid()}-{len(mine)}"), "x"):
        return block + 1


def test_a_cluster_computes_the_same_even_if_a_worker_is_killed_midway(scan, tmp_path):
    array = scan("mib").open(sync_offset=2).to_dask(chunks=(1, 4))
    truth = scan("mib").truth(2)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        np.testing.assert_array_equal(array.compute(), truth)
        assert len(client.scheduler_info()["workers"]) == 2
        marked = array.map_blocks(die_once, str(tmp_path), dtype=array.dtype, meta=array._meta)
        np.testing.assert_array_equal(marked.compute(), truth + np.uint16(1))
    died = (tmp_path / "died").read_text()
    ran = [path.name for path in tmp_path.glob("*-*")]
    assert sum(name.startswith(f"{died}-") for name in ran) == 2
    assert len({name.partition("-")[0] for name in ran}) >= 2
    assert len(ran) >= array.npartitions + 2                    # those that were lost were computed again


# -- devices -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(why_no_compiler() is not None, reason=str(why_no_compiler()))
def test_chunks_are_decoded_on_the_device_one_at_a_time(scan, tmp_path, monkeypatch):
    engine = host_engine(tmp_path, kinds=lambda file: ["decode<swap<f32>, f32, f32, 0>"])
    monkeypatch.setitem(engines._engines, (os.getpid(), "cuda:0"), engine)
    monkeypatch.setattr(engines, "why_no_cuda", lambda device=0: None)
    ds, truth = scan("raw").open().to("cuda"), scan("raw").truth()
    launches = engine._runtime.launches
    array = ds.to_dask(chunks=2)
    assert array.name != scan("raw").open().to_dask(chunks=2).name
    np.testing.assert_array_equal(array.compute(scheduler="threads"), truth)
    assert len(launches) > 0

    inside, most = 0, 0
    decode = type(ds).pixels

    def watched(self, *args, **options):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.002)                                       # long enough for others to come in
        pixels = decode(self, *args, **options)
        inside -= 1
        return pixels

    monkeypatch.setattr(type(ds), "pixels", watched)
    np.testing.assert_array_equal(ds.to_dask(chunks=2).compute(scheduler="threads", num_workers=4), truth)
    assert most == 1
    np.testing.assert_array_equal(ds.to_dask(chunks=2, lock=False).compute(scheduler="threads", num_workers=4), truth)
    assert most > 1


def test_a_missing_package_is_named_with_its_extra(scan):
    code = (f"import sys; sys.modules['dask'] = None\nimport gpuio\nds = gpuio.open({scan('npy').path!r}, device='cpu')\n"
            "try: ds.to_dask()\nexcept gpuio.BackendUnavailable as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("; install gpuio[dask]\n") and done.stdout.count("\n") == 1
