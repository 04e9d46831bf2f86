"""The index of chunks as it is read from the file's bytes, beside what the library tells."""

from __future__ import annotations

import pathlib

import h5py
import numpy as np
import pytest

import gpuio
from gpuio.errors import FormatError
from gpuio.formats._hdf5_index import read_index
from tests.formats.hdf5_files import counts

SHAPES = {(3000, 4, 4): (1, 4, 4), (9, 10, 11, 12): (2, 3, 4, 5), (5, 4, 4): (5, 4, 4), (67, 5): (2, 2)}


def write(path, shape, chunks, *, userblock_size=None, libver="earliest", written=..., seed=1):
    values = counts(seed, shape)
    with h5py.File(path, "w", userblock_size=userblock_size, libver=libver) as file:
        found = file.create_dataset("a/b/data", shape, "u2", chunks=chunks, compression="gzip")
        for k in range(9):              # so many that the header of the data set goes on elsewhere
            found.attrs[f"attribute {k}"] = "x" * 300
        found[written] = values[written]
    return values


def told(found):
    entries = []
    found.id.chunk_iter(entries.append)
    return sorted((tuple(e.chunk_offset), e.filter_mask, e.byte_offset, e.size) for e in entries)


@pytest.mark.parametrize("userblock_size", [None, 512, 8192])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_chunk_is_where_the_library_says(tmp_path, shape, userblock_size):
    path = str(tmp_path / "a.h5")
    write(path, shape, SHAPES[shape], userblock_size=userblock_size, written=np.s_[shape[0] // 4:])
    with h5py.File(path) as file:
        found = file["a/b/data"]
        index = read_index(found, path, 1 << 20)
        assert index is not None
        assert sorted((tuple(o), m, f, s) for o, m, f, s in index.tolist()) == told(found)
        assert len(index) == found.id.get_num_chunks() > 0


@pytest.mark.parametrize("libver", ["v110", "latest"])
@pytest.mark.parametrize("maxshape", [None, (None, 4, 4), (None, None, 4)], ids=str)
def test_of_other_indices_the_library_is_asked(tmp_path, libver, maxshape):
    path = str(tmp_path / "a.h5")
    values = counts(2, (30, 4, 4))
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("data", data=values, chunks=(2, 4, 4), maxshape=maxshape, compression="gzip")
    with h5py.File(path) as file:
        assert read_index(file["data"], path, 1000) is None
    np.testing.assert_array_equal(gpuio.open(path, device="cpu")[...], values)


def nodes(path):
    """Places of nodes of trees of chunks, with their levels."""
    raw = pathlib.Path(path).read_bytes()
    at, found = raw.find(b"TREE\x01"), []
    while at >= 0:
        found.append((at, raw[at + 5]))
        at = raw.find(b"TREE\x01", at + 1)
    return found


@pytest.mark.parametrize("damage", ["signature", "level", "circle", "entries", "cut off"])
def test_a_tree_that_makes_no_sense_is_an_error(tmp_path, damage):
    """The library is not asked: of some of these it crashes."""
    path = str(tmp_path / "a.h5")
    write(path, (3000, 4, 4), (1, 4, 4))
    all_nodes = nodes(path)
    top = max(level for _, level in all_nodes)
    root, leaf = (next(at for at, level in all_nodes if level == wanted) for wanted in (top, 0))
    assert top > 0
    with open(path, "r+b") as file:
        place, new = {"signature": (leaf, b"TRIE"), "level": (leaf + 5, b"\x07"), "circle": (root + 24 + 40, root.to_bytes(8, "little")),
                      "entries": (leaf + 6, b"\xff\xff"), "cut off": (root + 24 + 40, (1 << 40).to_bytes(8, "little"))}[damage]
        file.seek(place)
        file.write(new)
    with pytest.raises(FormatError, match=r"a\.h5: the index of chunks of /a/b/data (is damaged: (at byte|its tree leads)|cannot be read)"):
        gpuio.open(path, device="cpu", ds_path="a/b/data")


def test_a_tree_that_leads_to_a_node_twice_is_an_error(tmp_path):
    """However large the tree that it describes: the file is small."""
    path = str(tmp_path / "a.h5")
    write(path, (3000, 4, 4), (1, 4, 4))
    root = next(at for at, level in nodes(path) if level == max(level for _, level in nodes(path)))
    with open(path, "r+b") as file:
        file.seek(root + 24 + 40)
        child = file.read(8)
        file.seek(root + 24 + 48 + 40)
        file.write(child)
    with pytest.raises(FormatError, match=r"a\.h5: .* /a/b/data is damaged: its tree leads to the node at byte \d+ twice"):
        gpuio.open(path, device="cpu", ds_path="a/b/data")


def test_a_tree_of_more_entries_than_chunks_is_an_error(tmp_path):
    path = str(tmp_path / "a.h5")
    write(path, (3000, 4, 4), (1, 4, 4))
    with h5py.File(path) as file, pytest.raises(FormatError, match="more than 2999 entries of level 0; there are 2999 chunks"):
        read_index(file["a/b/data"], path, 2999)


def test_a_data_set_without_chunks(tmp_path):
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (5, 4, 4), "u2", chunks=(1, 4, 4), compression="gzip", fillvalue=3)
    with h5py.File(path) as file:
        index = read_index(file["data"], path, 5)
        assert index is not None and len(index) == 0
    assert (gpuio.open(path, device="cpu")[...] == 3).all()
