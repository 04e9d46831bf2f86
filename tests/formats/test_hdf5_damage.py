"""HDF5: files that are damaged, incomplete, busy, or hold something else; one clear line each."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import h5py
import hdf5plugin
import numpy as np
import pytest

import gpuio
from gpuio.errors import BackendUnavailable, DataSetException, FormatError, MemoryBudgetError, ShapeError, TruncatedFile, UnsupportedFeature
from tests.formats.hdf5_files import PACKED, counts, write

SHAPE = (5, 7, 13, 11)


def load(path, **parameters):
    return gpuio.load("hdf5", path=str(path), device="cpu", **parameters)


def refused(error, match, path, **parameters):
    with pytest.raises(error, match=match) as caught:
        load(path, **parameters)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said


def test_files_that_are_no_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"x" * 5000)
    refused(FormatError, "cannot be opened as an HDF5 file; HDF5 says: .*signature", path)
    path.write_bytes(b"")
    refused(FormatError, "cannot be opened", path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.h5")
    with pytest.raises(DataSetException, match="is a folder"):
        load(tmp_path)
    assert gpuio.detect(path) is None


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_files_that_are_cut_short(tmp_path, share):
    path = write(tmp_path / "a.h5", counts(1, SHAPE), chunks=(1, 1, 13, 11))
    with open(path, "r+b") as file:
        file.truncate(int(os.path.getsize(path) * share))
    refused(FormatError, "HDF5 says", path)


def test_a_file_that_another_process_writes(tmp_path):
    path = write(tmp_path / "a.h5", counts(1, SHAPE))
    with h5py.File(path, "r+"):
        refused(DataSetException, "is open for writing in this process", path)
        code = f"import gpuio\ntry: gpuio.load('hdf5', path={path!r}, device='cpu')\nexcept gpuio.errors.DataSetException as e: print(e)"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.match(rf"{re.escape(path)}: is open for writing, here or in another program; .*lock", said)
    assert said.count("\n") == 1
    assert load(path).dtype == np.dtype("u2")


def test_names_that_are_no_data_set(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/scan"] = counts(1, SHAPE)
        file["group/loop"] = h5py.SoftLink("/group/back")
        file["group/back"] = h5py.SoftLink("/group/loop")
        file["group/again"] = file["group"]         # a circle of groups
        file["gone"] = h5py.ExternalLink("gone.h5", "/x")
        file["dangling"] = h5py.SoftLink("/nothing")
    refused(FormatError, r"has no /scan; it has /group/scan \(5, 7, 13, 11\) uint16", path, ds_path="scan")
    refused(FormatError, "/group is a group; name a data set: /group/scan", path, ds_path="group")
    refused(FormatError, "do they go round in circles", path, ds_path="group/loop")
    refused(FormatError, r"gone is a link to gone\.h5, which is not there", path, ds_path="gone")
    refused(FormatError, "has no /nothing", path, ds_path="dangling")
    refused(FormatError, "has no /group/scan/more", path, ds_path="group/scan/more")
    assert load(path).metadata["ds_path"] == "/group/scan"


def test_items_that_are_no_pixels(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["records"] = np.zeros((3, 4, 5), [("a", "u2"), ("b", "f4")])
        file["text"] = np.full((3, 4, 5), b"abc")
        file["ragged"] = np.full((3, 4, 5), "abc", dtype=object)
        file.create_dataset("references", (3, 4, 5), h5py.ref_dtype)
        file["null"] = h5py.Empty("f4")
        file["line"] = np.arange(5)
        file.create_dataset("empty", (0, 4, 5), "u2", maxshape=(None, 4, 5))
    refused(UnsupportedFeature, "records .a compound type.* of dtype", path, ds_path="records")
    refused(UnsupportedFeature, "text of dtype", path, ds_path="text")
    for name in ("ragged", "references"):
        refused(UnsupportedFeature, "objects", path, ds_path=name)
    refused(UnsupportedFeature, "null", path, ds_path="null")
    refused(ShapeError, r"has shape \(5,\); expected at least sig_dims=2", path, ds_path="line")
    refused(FormatError, r"of shape \(0, 4, 5\) holds nothing", path, ds_path="empty")
    refused(FormatError, r"has no data set with frames; it has .*/line \(5,\)", path)


@pytest.mark.parametrize(("name", "value"), [
    ("sig_dims", 0), ("sig_dims", "2"), ("target_size", -1), ("nav_shape", (0, 3)), ("sync_offset", 1.5)])
def test_parameters_that_make_no_sense(tmp_path, name, value):
    with pytest.raises(ShapeError, match=name):
        load(tmp_path / "a.h5", **{name: value})


def patched(path, old, new):
    """Replace the only place in a file that holds some bytes."""
    data = pathlib.Path(path).read_bytes()
    assert data.count(old) == 1
    pathlib.Path(path).write_bytes(data.replace(old, new))


def chunk_record(path, number, name="data"):
    """Size, mask and address of a chunk as the B-tree of version 1 has them around its coordinates."""
    with h5py.File(path) as file:
        info = file[name].id.get_chunk_info(number)
    head = info.size.to_bytes(4, "little") + info.filter_mask.to_bytes(4, "little")
    return info, head + b"".join(k.to_bytes(8, "little") for k in (*info.chunk_offset, 0)), info.byte_offset.to_bytes(8, "little")


@pytest.mark.parametrize("storage", [{}, PACKED["gzip"]], ids=["plain", "gzip"])
def test_a_damaged_index_of_chunks(tmp_path, storage):
    values = counts(1, (5, 13, 11))
    for damage, said in ((lambda i, h, a: (h + a, bytes(4) + h[4:] + a), "has 0 bytes"),
                         (lambda i, h, a: (h + a, h + (1 << 40).to_bytes(8, "little")), f".* at byte {1 << 40}; the file has"),
                         (lambda i, h, a: (h + a, (1 << 30).to_bytes(4, "little") + h[4:] + a), f"has {1 << 30} bytes")):
        path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **storage)
        info, head, address = chunk_record(path, 3)
        patched(path, *damage(info, head, address))
        refused(FormatError, rf"/data: the index of chunks is damaged: chunk \(3, 0, 0\) {said}", path)
    if not storage:
        path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11))
        info, head, address = chunk_record(path, 3)
        patched(path, head + address, (285).to_bytes(4, "little") + head[4:] + address)
        refused(FormatError, r"chunk \(3, 0, 0\) has 285 bytes; expected 286", path)


@pytest.mark.parametrize("filters", ["gzip", "gzip shuffle fletcher32", "lzf", "lz4", "bitshuffle lz4"])
@pytest.mark.parametrize("backend", ["mmap", "direct"])
def test_a_damaged_chunk_is_named_and_gives_no_pixels(tmp_path, filters, backend):
    values = counts(2, (6, 13, 11))
    values[4] = np.random.default_rng(2).poisson(3, (13, 11))
    path = write(tmp_path / "a.h5", values, chunks=(2, 13, 11), **PACKED[filters])
    with h5py.File(path) as file:
        info = file["data"].id.get_chunk_info(2)
    with open(path, "r+b") as file:
        file.seek(info.byte_offset)
        file.write(b"\xff" * 24)
    ds = load(path, io_backend=gpuio.base.IOBackend.get_cls_by_id(backend)())
    np.testing.assert_array_equal(ds[:4], values[:4])
    match = rf"{re.escape(path)}: chunk \(4, 0, 0\), {info.size} bytes at byte {info.byte_offset}: "
    with pytest.raises(FormatError, match=match):
        ds[4]
    got = []
    with pytest.raises(FormatError, match=match):
        for tile in ds.tiles(depth=2, memory=4000 if backend == "mmap" else 12000):
            got.append(np.array(tile.data))
    np.testing.assert_array_equal(np.concatenate(got), values[:len(got) * 2])


def test_a_chunk_that_ends_early(tmp_path):
    """Stored bytes that are a valid stream of too few pixels."""
    values = counts(3, (5, 13, 11))
    path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **PACKED["gzip"])
    import zlib

    with h5py.File(path, "r+") as file:
        file["data"].id.write_direct_chunk((3, 0, 0), zlib.compress(values[3].tobytes()[:-2]))
    with pytest.raises(FormatError, match=r"chunk \(3, 0, 0\)"):
        load(path)[3]
    with h5py.File(path, "r+") as file:
        file["data"].id.write_direct_chunk((3, 0, 0), zlib.compress(values[3].tobytes() + bytes(1 << 20)))
    with pytest.raises(FormatError, match=r"chunk \(3, 0, 0\)"):
        load(path)[3]
    np.testing.assert_array_equal(load(path)[:3], values[:3])


def test_a_bomb_is_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("huge chunks", (1 << 20, 30000, 30000), "u2", chunks=(1, 30000, 30000), compression="gzip")
        file.create_dataset("many frames", (1 << 40, 8, 8), "u2")
        file.create_dataset("many chunks", (1 << 26, 8, 8), "u2", chunks=(1, 8, 4))
        file.create_dataset("many by the library", (1 << 26, 8, 8), "u2", chunks=(1, 8, 4), **hdf5plugin.Zstd())
        file.create_dataset("huge frames", (3, 1 << 20, 1 << 20), "u2")
        file.create_dataset("large frames", (3, 1 << 19, 1 << 20), "u2")
    with pytest.raises(MemoryBudgetError, match="cannot hold one frame"):
        next(load(path, ds_path="huge chunks").tiles(memory="1 GiB"))
    refused(UnsupportedFeature, f"has {1 << 40} frames; expected at most", path, ds_path="many frames")
    refused(UnsupportedFeature, f"has {1 << 27} chunks", path, ds_path="many chunks")
    refused(UnsupportedFeature, f"asked {1 << 26} times for chunks", path, ds_path="many by the library")
    refused(UnsupportedFeature, f"frames of .* uint16 have {1 << 41} bytes; expected at most", path, ds_path="huge frames")
    ds = load(path, ds_path="large frames")
    assert not ds.get_correction_data().have_corrections()
    with pytest.raises(MemoryBudgetError, match="cannot hold one frame"):
        next(ds.tiles())
    with pytest.raises(MemoryBudgetError, match=f"1 frames take {1 << 40} bytes; read fewer at a time"):
        ds[0]
    with pytest.raises(MemoryBudgetError, match=f"sums over all frames take {1 << 42} bytes"):
        ds.summary()


def test_a_filter_that_is_not_there_is_named(tmp_path, monkeypatch):
    values = counts(4, (5, 13, 11))
    path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **hdf5plugin.Zstd())
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    refused(UnsupportedFeature, r"filter 32015 \(.*\), which cannot be undone here; it needs hdf5plugin: install gpuio\[hdf5\]", path)


def test_h5py_that_is_not_there_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", counts(4, (5, 13, 11)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BackendUnavailable, match=r"h5py.*install gpuio\[hdf5\]"):
        load(path)


def test_what_the_library_cannot_read_is_an_error_with_its_words(tmp_path):
    values = counts(5, (5, 13, 11))
    path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **hdf5plugin.Zstd())
    with h5py.File(path, "r+") as file:
        file["data"].id.write_direct_chunk((3, 0, 0), b"\xff" * 40)
    ds = load(path)
    np.testing.assert_array_equal(ds[:3], values[:3])
    with pytest.raises(gpuio.errors.ReadError, match=r"a\.h5: data set /data, frames from \(3,\) on: HDF5 says"):
        ds[3]


def test_a_file_that_becomes_shorter_after_it_was_opened(tmp_path):
    path = write(tmp_path / "a.h5", counts(6, (6, 13, 11)), chunks=(2, 13, 11), **PACKED["gzip"])
    ds = load(path)
    ds.check_valid()
    with open(path, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(OSError, match="shrank"):
        ds[...]


def test_truncated_error_is_told_as_such(tmp_path):
    path = write(tmp_path / "a.h5", counts(1, SHAPE))
    with open(path, "r+b") as file:
        file.truncate(5000)
    refused(TruncatedFile, "cut short", path)


def test_check_tells_of_chunks_and_files_that_are_missing(tmp_path):
    from gpuio import check, synth

    values = counts(7, (12, 13, 11))
    assert check.check(write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **PACKED["gzip"])).findings == ()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("data", values.shape, "u2", chunks=(1, 13, 11), **PACKED["gzip"])[:5] = values[:5]
    finding, = check.check(tmp_path / "b.h5").findings
    assert (finding.severity, finding.evidence) == ("warning", {"missing_chunks": 7, "chunks": 12})
    synth.write("hdf5", tmp_path / "c_master.h5", [values], nav_shape=(3, 4), sig_shape=(13, 11), frames_per_file=5)
    report = check.check(tmp_path / "c_master.h5")
    assert (report.findings, report.candidates[0].nav_shape, len(report.files)) == ((), (3, 4), 3)
    (tmp_path / "c_data_000003.h5").unlink()
    finding, = check.check(tmp_path / "c_master.h5").findings
    assert finding.severity == "error"
    assert "c_data_000003.h5, which is not there" in finding.what


def test_filters_that_cannot_have_packed_such_chunks(tmp_path):
    values = counts(8, (5, 13, 11))
    path = write(tmp_path / "a.h5", values, chunks=(1, 13, 11), **PACKED["bitshuffle lz4"])
    with h5py.File(path) as file:
        parameters = file["data"].id.get_create_plist().get_filter(0)[2]
    assert parameters[2:5] == (2, 0, 2)
    # Items of 3 bytes, of which 286 bytes hold no whole number.
    old, new = (b"".join(v.to_bytes(4, "little") for v in values) for values in (parameters[:3], (*parameters[:2], 3)))
    patched(path, old, new)
    with pytest.raises(FormatError, match="parameters of its filters do not fit the chunks: .*3 bytes"):
        load(path)[0]


def test_a_chunk_that_is_listed_twice_leaves_no_other_out(tmp_path):
    path = write(tmp_path / "a.h5", counts(9, (5, 13, 11)), chunks=(1, 13, 11), **PACKED["gzip"])
    _, head, address = chunk_record(path, 3)
    patched(path, head + address, head[:8] + (2).to_bytes(8, "little") + head[16:] + address)
    refused(FormatError, r"the index of chunks is damaged: chunk \(2, 0, 0\) is listed twice", path)


def test_names_that_are_no_utf8_and_a_group_that_leads_nowhere(tmp_path):
    path, values = tmp_path / "a.h5", counts(10, (3, 13, 11))
    with h5py.File(path, "w") as file:
        file.create_dataset(b"caf\xe9", data=values + 1)
        file["entry/data"] = h5py.SoftLink("/entry/data")
        file["scan"] = values
    ds = load(path)
    assert ds.metadata["ds_path"] == "/scan"
    np.testing.assert_array_equal(ds[...], values)
    refused(FormatError, "do they go round in circles", path, ds_path="entry/data")


@pytest.mark.parametrize("json", [b'{"BinaryResult":{"PixelSize":"5"}}', b'{"BinaryResult":' + b"[" * 100_000])
def test_velox_metadata_that_make_no_sense_do_no_harm(tmp_path, json):
    path, values = tmp_path / "a.emd", counts(11, (13, 11, 3))
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([b'{"format":"Velox","version":"1"}'])
        file["Data/Image/ab/Data"] = values
        file["Data/Image/ab/Metadata"] = np.frombuffer(json + b"\0", "u1")[:, None]
    np.testing.assert_array_equal(load(path)[...], np.moveaxis(values, -1, 0))


@pytest.mark.parametrize("name", [None, "data"])
@pytest.mark.parametrize(("libver", "signature"), [("earliest", b"SNOD"), ("earliest", b"TREE"), ("latest", b"OHDR")])
def test_damaged_structures_are_told_in_the_words_of_the_library(tmp_path, libver, signature, name):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("data", data=counts(12, (6, 13, 11)), chunks=(1, 13, 11), **PACKED["gzip"])
    whole = path.read_bytes()
    at = whole.rindex(signature) if libver == "latest" else whole.index(signature)
    path.write_bytes(whole[:at] + b"XXXX" + whole[at + 4:])
    if libver == "latest" and name is None:
        refused(FormatError, "has no data set with frames", path)
    else:
        refused(FormatError, "is damaged; HDF5 says: ", path, ds_path=name)


def test_a_damaged_chunk_at_the_edge_that_is_as_long_as_its_pixels(tmp_path):
    """Looked at when the file is opened, since its filters may have been left out."""
    path = write(tmp_path / "a.h5", counts(13, (3, 7, 7)), chunks=(3, 4, 7), **PACKED["gzip"])
    with h5py.File(path, "r+") as file:
        file["data"].id.write_direct_chunk((0, 4, 0), b"\xff" * 168)
    refused(FormatError, "is damaged; HDF5 says: .*filter", path)


def test_attributes_of_a_type_that_the_library_crashes_on(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["group/data"] = counts(1, SHAPE)
        file["group"].attrs["emd_group_type"] = "array"
        file["group/dim1"] = np.arange(5.0)
        file["group/dim1"].attrs["name"] = "scan"
        file["group/dim1"].attrs["units"] = "nm"
    assert load(path).metadata["nav_axes"][0] == {"size": 5, "name": "scan", "delta": 1.0, "first": 0.0, "unit": "nm"}
    raw = bytearray(path.read_bytes())
    at = raw.index(b"name\0\0\0\0")                 # behind it: class 9, variable length, whose kind is 1: text
    assert (raw[at + 8] & 0xF, raw[at + 9] & 0xF) == (9, 1)
    raw[at + 9] = 0xFF
    path.write_bytes(raw)
    code = f"import gpuio\nprint(gpuio.load('hdf5', path={str(path)!r}, device='cpu').metadata['nav_axes'][0])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("{'size': 5, 'name': 'dim1', 'delta': 1.0")


def test_links_without_an_end(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "/data")
    patched(path, b"other.h5\0/data\0", b"other.h5\0/data!")
    refused(FormatError, "is damaged; HDF5 says: .*null", path, ds_path="link")


@pytest.mark.parametrize("user_block", [None, 1024])
def test_driver_information_that_is_longer_than_the_file(tmp_path, user_block):
    """The library makes room for it before it looks."""
    path = write(tmp_path / "a.h5", counts(1, SHAPE), userblock_size=user_block)
    at = user_block or 0
    with open(path, "r+b") as file:
        file.seek(at + 48)
        assert file.read(8) == b"\xff" * 8
        file.seek(at + 48)
        file.write((2048).to_bytes(8, "little"))
        file.seek(at + 2048)
        file.write(b"\0\0\0\0" + (0x7FFFFFFF).to_bytes(4, "little"))
    refused(FormatError, f"driver information has {0x7FFFFFFF + 16} bytes at byte {at + 2048}; the file has", path)


TEXTS = """import sys, gpuio
ds = gpuio.load('hdf5', path=sys.argv[1], device='cpu')
print(ds.metadata.get('nav_axes'), ds.metadata.get('convention'))"""


def in_a_process(path):
    """What is printed of a file that the library might never come back from."""
    done = subprocess.run([sys.executable, "-c", TEXTS, str(path)], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


@pytest.mark.parametrize("libver", ["earliest", "v108"])
def test_a_heap_of_texts_with_zeros_in_it(tmp_path, libver):
    """The library runs for ever on it: a page of a file that was lost is enough."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=(libver, "latest")) as file:
        file["group/data"] = counts(1, SHAPE)
        file["group/dim1"] = np.arange(5.0)
        file["group/dim1"].attrs["units"] = "nm"
        file["group/dim1"].attrs["name"] = np.array(["scan"], dtype=h5py.string_dtype())
        file["group"].attrs["emd_group_type"] = "array"
    assert in_a_process(path).startswith("[{'size': 5, 'name': 'scan', 'delta': 1.0, 'first': 0.0, 'unit': 'nm'}")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL")
    raw[at + 16 + 24:at + 4096] = bytes(4096 - 40)           # behind the first text
    path.write_bytes(raw)
    assert in_a_process(path) == "[{'size': 5}, {'size': 7}] None"


def test_a_text_as_a_data_set_in_a_heap_with_zeros_in_it(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["Version"] = '{"format": "Velox"}'
        file["Data/Image/ab/Data"] = counts(2, (13, 11, 5))
    assert in_a_process(path).endswith("Velox")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL") + 16
    raw[at:at + 16] = bytes(16)
    path.write_bytes(raw)
    assert in_a_process(path).endswith("None")


def test_a_heap_of_names_whose_free_blocks_go_round_in_circles(tmp_path):
    """The library keeps a note of each, until memory ends."""
    path = write(tmp_path / "a.h5", counts(1, SHAPE))
    raw = bytearray(pathlib.Path(path).read_bytes())
    at = raw.index(b"HEAP")
    first, place = (int.from_bytes(raw[at + k:at + k + 8], "little") for k in (16, 24))
    raw[place + first:place + first + 8] = first.to_bytes(8, "little")
    pathlib.Path(path).write_bytes(raw)
    for name in (None, "data"):
        refused(FormatError, f"free blocks of the heap at byte {at}, which has the names in group /, do not follow each other", path,
                ds_path=name)


@pytest.mark.parametrize("name", ["a", "bc", "def", "ghij", "klmno"])
def test_sources_of_a_virtual_data_set_that_are_not_what_their_checksum_says(tmp_path, name):
    """The library crashes on some."""
    path, values = tmp_path / "a.h5", counts(14, (6, 13, 11))
    with h5py.File(path, "w") as file:
        virtual = h5py.VirtualLayout((6, 13, 11), "u2")
        for k in range(6):
            file[f"{name}{k}"] = values[k:k + 1]
            virtual[k] = h5py.VirtualSource(".", f"{name}{k}", (1, 13, 11))[0]
        file.create_virtual_dataset("virtual", virtual)
    np.testing.assert_array_equal(load(path, ds_path="virtual")[...], values)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"GCOL") + 32                # behind its header and that of its first object: version, u64 number of sources
    assert raw[at + 1:at + 9] == (6).to_bytes(8, "little")
    raw[at + 8] = 0x7F
    path.write_bytes(raw)
    refused(FormatError, "the list of sources of the virtual data set /virtual does not have its checksum", path, ds_path="virtual")
    assert load(path).metadata["ds_path"] == f"/{name}0"
