"""The core beside LiberTEM, on random cases in which LiberTEM is right. It is run, never read.

Left out, because LiberTEM differs there from its own specification: boxes that are no run of bytes, frames in no file,
partition borders that floating point puts one lower, explicit zeros in sparse masks.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import sparse

from gpuio.corrections import CorrectionSet
from gpuio.fileset import File, FileSet, FileTree
from gpuio.geometry.partition import get_num_partitions, make_slices, partition_shape
from gpuio.geometry.ranges import default_get_read_ranges
from gpuio.geometry.selection import sync_offset_info
from gpuio.geometry.tiling import Negotiator, TilingScheme
from gpuio.meta import PartitionStructure
from gpuio.shape import Shape, Slice
from gpuio.tile import get_coordinates

pytest.importorskip("libertem")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libertem import common
    from libertem.io.corrections import CorrectionSet as PeerCorrectionSet
    from libertem.io.dataset import base
    from libertem.io.dataset.memory import MemoryDataSet
    from libertem.udf import UDF
    from libertem.udf.base import UDFMethod


def both(origin, shape, sig_dims) -> tuple[Slice, common.Slice]:
    origin, shape = tuple(int(o) for o in origin), tuple(int(n) for n in shape)
    return Slice(origin, Shape(shape, sig_dims=sig_dims)), common.Slice(origin, common.Shape(shape, sig_dims=sig_dims))


def plain(found) -> tuple:
    return tuple(found.origin), tuple(found.shape), found.shape.sig.dims


@pytest.mark.parametrize("seed", range(20))
def test_shapes(seed):
    rng = np.random.default_rng(seed)
    entries = tuple(int(n) for n in rng.integers(1, 20, rng.integers(1, 6)))
    sig_dims = int(rng.integers(0, len(entries) + 1))
    mine, peer = Shape(entries, sig_dims=sig_dims), common.Shape(entries, sig_dims=sig_dims)
    assert (tuple(mine), mine.size, mine.dims, repr(mine)) == (tuple(peer), peer.size, peer.dims, repr(peer))
    for name in ("nav", "sig"):
        assert (tuple(getattr(mine, name)), getattr(mine, name).size) == (tuple(getattr(peer, name)), getattr(peer, name).size)
    for name in ("flatten_nav", "flatten_sig"):
        a, b = getattr(mine, name)(), getattr(peer, name)()
        assert (tuple(a), a.sig.dims) == (tuple(b), b.sig.dims)
    a, b = mine + (7, 2), peer + (7, 2)
    assert (tuple(a), a.sig.dims) == (tuple(b), b.sig.dims)
    a, b = (7, 2) + mine, (7, 2) + peer
    assert (tuple(a), a.sig.dims) == (tuple(b), b.sig.dims)


@pytest.mark.parametrize("seed", range(20))
def test_slices(seed):
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(2, 5))
    sig_dims = int(rng.integers(1, dims))
    a, peer_a = both(rng.integers(0, 9, dims), rng.integers(1, 9, dims), sig_dims)
    b, peer_b = both(rng.integers(0, 9, dims), rng.integers(1, 9, dims), sig_dims)
    for name in ("intersection_with", "shift"):
        assert plain(getattr(a, name)(b)) == plain(getattr(peer_a, name)(peer_b))
    assert a.intersection_with(b).is_null() == peer_a.intersection_with(peer_b).is_null()
    assert plain(a.discard_nav()) == plain(peer_a.discard_nav())
    assert plain(a.nav) == plain(peer_a.nav)
    assert plain(a.sig) == plain(peer_a.sig)
    assert a.get() == peer_a.get()
    stack = rng.random((20,) * dims)
    for kwargs in ({}, {"sig_only": True}, {"nav_only": True}):
        assert np.array_equal(a.get(stack, **kwargs), peer_a.get(stack, **kwargs))
    step = tuple(int(n) for n in rng.integers(1, 6, dims))
    assert [plain(s) for s in a.subslices(step)] == [plain(s) for s in peer_a.subslices(step)]


@pytest.mark.parametrize("seed", range(20))
def test_slices_on_a_roi(seed):
    rng = np.random.default_rng(seed)
    nav = tuple(int(n) for n in rng.integers(1, 9, 2))
    m = nav[0] * nav[1]
    first = int(rng.integers(0, m))
    mine, peer = both((first, 0, 0), (int(rng.integers(1, m - first + 1)), 4, 5), 2)
    roi = rng.random(nav) < 0.4
    assert plain(mine.adjust_for_roi(roi)) == plain(peer.adjust_for_roi(roi))
    whole, peer_whole = Shape((*nav, 4, 5), sig_dims=2), common.Shape((*nav, 4, 5), sig_dims=2)
    assert np.array_equal(get_coordinates(mine, whole), base.get_coordinates(peer, peer_whole))
    count = int(np.count_nonzero(roi))
    if count:
        mine, peer = both((count // 2, 0, 0), (count - count // 2, 4, 5), 2)
        assert np.array_equal(get_coordinates(mine, whole, roi), base.get_coordinates(peer, peer_whole, roi))


def random_files(rng) -> tuple[list[File], list]:
    edges = np.concatenate(([0], np.cumsum(rng.integers(1, 7, rng.integers(1, 6))))).tolist()
    headers = rng.integers(0, 50, len(edges)).tolist()
    arguments = [
        {"path": f"{i}", "start_idx": a, "end_idx": b, "native_dtype": np.dtype("u1"), "sig_shape": (4, 6), "file_header": h}
        for i, (a, b, h) in enumerate(zip(edges[:-1], edges[1:], headers, strict=False))]
    return [File(**a) for a in arguments], [base.File(**a) for a in arguments]


def lines(tree) -> list[str]:
    """The printed tree without its indentation, which LiberTEM adds twice to the first line of a subtree."""
    return [line.strip() for line in tree.to_string().splitlines()]


@pytest.mark.parametrize("seed", range(20))
def test_file_sets(seed):
    rng = np.random.default_rng(seed)
    files, peer_files = random_files(rng)
    mine, peer = FileSet(files), base.FileSet(peer_files)
    assert np.array_equal(mine.get_as_arr(), peer.get_as_arr())
    assert lines(FileTree.make(files)) == lines(base.FileTree.make(peer_files))
    n = mine.image_count
    for start in range(n):
        assert [f.path for f in mine.files_from(start)] == [f.path for f in peer.files_from(start)]
        stop = int(rng.integers(start, n + 3))
        assert mine.get_for_range(start, stop).paths == [f.path for f in peer.get_for_range(start, stop)]


@pytest.mark.parametrize("seed", range(20))
def test_frames_of_a_file(seed):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(rng.choice(["u1", "<u2", ">f4"]))
    sizes = {"frame_header": int(rng.integers(0, 5)) * dtype.itemsize, "frame_footer": int(rng.integers(0, 5)) * dtype.itemsize,
             "file_header": int(rng.integers(0, 30))}
    count, sig = int(rng.integers(1, 7)), (3, 5)
    size = sizes["file_header"] + count * (sizes["frame_header"] + 15 * dtype.itemsize + sizes["frame_footer"])
    memory = memoryview(rng.integers(0, 100, size, dtype=np.uint8).tobytes())
    mine, peer = (kind("scan", 0, count, dtype, sig, **sizes) for kind in (File, base.File))
    assert tuple(mine.get_offsets_sizes(size)) == tuple(peer.get_offsets_sizes(size))
    found = mine.get_array_from_memview(memory, mine.get_offsets_sizes(size))
    expected = peer.get_array_from_memview(memory, peer.get_offsets_sizes(size))
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def schemes(tileshape, sig, nav=(4, 5)) -> tuple[TilingScheme, object]:
    return tuple(kind.make_for_shape(shape(tileshape, sig_dims=len(sig)), shape((*nav, *sig), sig_dims=len(sig)))
                 for kind, shape in ((TilingScheme, Shape), (base.TilingScheme, common.Shape)))


@pytest.mark.parametrize("seed", range(20))
def test_tiling_schemes(seed):
    rng = np.random.default_rng(seed)
    sig = tuple(int(n) for n in rng.integers(1, 20, rng.integers(1, 4)))
    mine, peer = schemes(tuple(int(n) for n in rng.integers(1, 9, 1 + len(sig))), sig)
    assert np.array_equal(mine.slices_array, peer.slices_array)
    assert [(i, plain(s)) for i, s in mine.slices] == [(i, plain(s)) for i, s in peer.slices]
    assert (mine.depth, tuple(mine.shape), len(mine)) == (peer.depth, tuple(peer.shape), len(peer))


@pytest.mark.parametrize("seed", range(40))
def test_read_ranges(seed):
    rng = np.random.default_rng(seed)
    files, _ = random_files(rng)
    n = files[-1].end_idx
    header, footer = (int(x) for x in rng.integers(0, 20, 2))
    depth, rows, bpp = int(rng.integers(1, 6)), int(rng.integers(1, 5)), int(rng.choice([1, 8, 12, 16]))
    sig = (4, 8)
    m = int(rng.integers(1, n + 6))
    s = int(rng.integers(-n + 1, n))
    first, stop = sorted(int(x) for x in rng.integers(0, m + 1, 2))
    roi = rng.random(m) < 0.5 if seed % 2 else None
    arguments = {
        "start_at_frame": first + s, "stop_before_frame": min(stop + s, n), "depth": depth,
        "slices_arr": schemes((depth, rows, 8), sig)[0].slices_array, "fileset_arr": FileSet(files).get_as_arr(), "sig_shape": sig,
        "bpp": bpp, "sync_offset": s, "frame_header_bytes": header, "frame_footer_bytes": footer}
    found = default_get_read_ranges(roi=roi, **arguments)
    expected = base.default_get_read_ranges(roi_nonzero=None if roi is None else np.flatnonzero(roi), **arguments)
    for mine, peer in zip(found, expected, strict=True):
        assert mine.shape == peer.shape
        assert np.array_equal(mine, peer)


class FakeDataSet:
    def __init__(self, shape, dtype, base_shape, decode, io_size):
        self.shape, self.dtype, self._base_shape, self._decode, self._io_size = shape, np.dtype(dtype), base_shape, decode, io_size

    def get_base_shape(self, roi):
        return self._base_shape

    def get_min_sig_size(self):
        return 4 * 4096 // self.dtype.itemsize

    def get_max_io_size(self):
        return self._io_size

    def adjust_tileshape(self, tileshape, roi):
        return tileshape

    def need_decode(self, read_dtype, roi, corrections):
        return self._decode


@pytest.mark.parametrize("seed", range(60))
def test_negotiation(seed):
    rng = np.random.default_rng(seed)
    sig = tuple(int(n) for n in rng.integers(20, 600, 2))
    frames = int(rng.integers(1, 200))
    methods = rng.choice([UDFMethod.TILE, UDFMethod.FRAME, UDFMethod.PARTITION], int(rng.integers(1, 4)), p=[0.7, 0.2, 0.1])
    udfs = []
    for method in methods:
        depth = [UDF.TILE_DEPTH_DEFAULT, UDF.TILE_DEPTH_MAX, int(rng.integers(1, 100))][int(rng.integers(3))]
        size = [UDF.TILE_SIZE_BEST_FIT, UDF.TILE_SIZE_MAX, int(rng.integers(1000, 10**7))][int(rng.integers(3))]
        udfs.append(SimpleNamespace(get_method=lambda method=method: method,
                                    get_tiling_preferences=lambda depth=depth, size=size: {"depth": depth, "total_size": size}))
    base_shape = (1, 1, sig[1])
    decode, io_size = bool(rng.integers(2)), [None, int(rng.integers(2**18, 2**24))][int(rng.integers(2))]
    raw, read = rng.choice(["u1", "u2", "f4", "f8"], 2)
    mask = np.zeros(sig, dtype=bool)
    if seed % 3 == 0:
        mask.ravel()[rng.integers(0, mask.size, 3)] = True

    def scheme(negotiator, shape, corrections):
        dataset = FakeDataSet(shape((8, 100, *sig), sig_dims=2), raw, base_shape, decode, io_size)
        return negotiator.get_scheme(udfs, dataset, np.dtype(read), shape((frames, *sig), sig_dims=2), None, corrections)

    peer_corrections = PeerCorrectionSet(excluded_pixels=sparse.COO.from_numpy(mask)) if mask.any() else None
    found = scheme(Negotiator(), Shape, CorrectionSet(excluded_pixels=mask) if mask.any() else None)
    expected = scheme(base.Negotiator(), common.Shape, peer_corrections)
    assert (tuple(found.shape), found.intent) == (tuple(expected.shape), expected.intent)


@pytest.mark.parametrize("seed", range(30))
def test_tileshapes_beside_excluded_pixels(seed):
    rng = np.random.default_rng(seed)
    sig = tuple(int(n) for n in rng.integers(2, 200, 2))
    step = tuple(int(rng.integers(1, n + 1)) for n in sig) if seed % 2 else (1, sig[1])
    tile = tuple(min(n, b * int(rng.integers(1, 9))) for n, b in zip(sig, step, strict=True))      # as negotiated: multiples of the base
    mask = np.zeros(sig, dtype=bool)
    mask.ravel()[rng.integers(0, mask.size, int(rng.integers(1, 6)))] = True
    arguments = {"tile_shape": tile, "sig_shape": sig, "base_shape": step}
    expected = PeerCorrectionSet(excluded_pixels=sparse.COO.from_numpy(mask), allow_empty=True).adjust_tileshape(**arguments)
    assert CorrectionSet(excluded_pixels=mask, allow_empty=True).adjust_tileshape(**arguments) == tuple(int(n) for n in expected)


@pytest.mark.parametrize("seed", range(20))
def test_corrections_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    sig, origin = (13, 17), tuple(int(o) for o in rng.integers(0, 4, 2))
    box = tuple(int(rng.integers(3, n - o + 1)) for n, o in zip(sig, origin, strict=True))
    dtype = np.dtype(["f4", "f8", "c8"][seed % 3])
    data = (rng.normal(size=(3, *box)) * 1e3).astype(dtype)
    if dtype.kind == "c":
        data += 1j * rng.normal(size=data.shape).astype("f4")
    dark = rng.normal(size=sig).astype(["f4", "f8"][seed % 2])
    gain = rng.uniform(0.5, 2, sig).astype(["f8", "f4"][seed % 2])
    mask = rng.random(sig) < 0.1
    maps = [(dark, gain, mask), (dark, None, None), (None, gain, mask), (None, None, mask)][seed % 4]
    mine, peer = both((5, *origin), (3, *box), 2)
    found, expected = data.copy(), data.copy()
    CorrectionSet(*maps, allow_empty=True).apply(found, mine)
    coo = None if maps[2] is None else sparse.COO.from_numpy(maps[2])
    PeerCorrectionSet(maps[0], maps[1], coo, allow_empty=True).apply(expected, peer)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_partitions(seed):
    rng = np.random.default_rng(seed)
    m, s = int(rng.integers(1, 60)), int(rng.integers(-5, 6))
    n = [d for d in range(1, m + 1) if m % d == 0][-int(rng.integers(1, 3)):][0]        # even splits, exact in floating point too
    mine = [(plain(p), a, b) for p, a, b in make_slices(Shape((m, 3, 4), sig_dims=2), n, s)]
    peer = [(plain(p), int(a), int(b)) for p, a, b in base.Partition.make_slices(common.Shape((m, 3, 4), sig_dims=2), n, s)]
    assert mine == peer


@pytest.mark.parametrize("seed", range(20))
def test_sizes_of_partitions(seed):
    rng = np.random.default_rng(seed)
    entries = tuple(int(n) for n in rng.integers(1, 300, 4))
    cores = int(rng.integers(1, 9))
    dataset = MemoryDataSet(data=np.broadcast_to(np.zeros(1, dtype="f4"), entries), num_partitions=1)
    dataset.set_num_cores(cores)
    target, least = int(rng.integers(1000, 10**9)), [None, 1, 17][int(rng.integers(3))]
    shape = Shape(entries, sig_dims=2)
    assert partition_shape(shape, "f4", target, cores, least) == tuple(dataset.partition_shape(np.dtype("f4"), target, least))
    if shape.nav.size > 1000:       # with fewer frames than partitions gpuio makes one for each
        assert get_num_partitions(shape, cores, dataset.MAX_PARTITION_SIZE) == base.DataSet.get_num_partitions(dataset)


@pytest.mark.parametrize("seed", range(10))
def test_sync_offsets_and_partition_structures(seed):
    rng = np.random.default_rng(seed)
    nav, frames = tuple(int(n) for n in rng.integers(1, 8, 2)), int(rng.integers(1, 60))
    s = int(rng.integers(-frames + 1, frames))
    dataset = MemoryDataSet(data=np.zeros((frames, 3, 4), dtype=">u2"), num_partitions=1, nav_shape=nav, sig_shape=(3, 4), sync_offset=s)
    assert sync_offset_info(s, frames, nav[0] * nav[1]) == dataset.get_sync_offset_info()
    cuts = [(0, 1), (1, nav[0] * nav[1])]
    mine = PartitionStructure(Shape((*nav, 3, 4), sig_dims=2), cuts, ">u2").serialize()
    peer = base.PartitionStructure(common.Shape((*nav, 3, 4), sig_dims=2), cuts, np.dtype(">u2")).serialize()
    assert mine == peer
