"""TIA series: files packed by hand, both widths of offsets, every dtype, uneven spacing, aborted series, every way to the pixels."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats.ser import SERDataSet, parse, sniff
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.mib_files import Files
from tests.formats.recorded import check, needs_recordings, rows

CODES = {"u1": 1, "u2": 2, "u4": 3, "i1": 4, "i2": 5, "i4": 6, "f4": 7, "f8": 8, "c8": 9, "c16": 10}
SHAPE = (6, 5, 7)


def packed(frames, dims=None, planned=None, wide=True, tags="position", gaps=(0,) * 500, before=0, positions=None, entry=None,
           dim_text=b"Position"):
    """A file by hand: frames [n, *sig] as they are seen. `entry` follows the last offset, `before` bytes the tables."""
    n, w = len(frames), 8 if wide else 4
    planned = planned or n
    dims = (n,) if dims is None else dims
    head = b"II\x97\x01" + (b"\x20\x02" if wide else b"\x10\x02") + struct.pack(
        "<4I", 0x4122 if frames.ndim == 3 else 0x4120, 0x4142 if tags == "position" else 0x4152, planned, n)
    records = b"".join(struct.pack("<IddI", size, 1.5, -0.25, 3) + struct.pack("<I", len(dim_text)) + dim_text + struct.pack("<I", 1) + b"m"
                       for size in reversed(dims))
    table = len(head) + w + 4 + len(records)
    blob = head + table.to_bytes(w, "little") + struct.pack("<I", len(dims)) + records
    at, data, tag, body = table + 2 * planned * w + before, [], [], b"\xee" * before
    for i, frame in enumerate(frames):
        stored = frame[::-1] if frame.ndim == 2 else frame
        sizes = frame.shape[::-1]
        element = struct.pack("<ddI", 0.5, 2.0, 1) * len(sizes) + struct.pack(f"<H{len(sizes)}I", CODES[frame.dtype.str[1:]], *sizes)
        data.append(at + len(body) - before)
        body += element + stored.tobytes()
        tag.append(at + len(body) - before)
        body += struct.pack("<HHI", 0x4142 if tags == "position" else 0x4152, 0, 1_000_000_000 + i)
        x, y = (i % 3, i // 3) if positions is None else positions[i]
        body += struct.pack("<dd", x, y) if tags == "position" else b""
        body += b"\xdd" * gaps[i]
    data += [at + len(body) - before if entry is None else entry] + [0] * planned
    tag += [0] * planned
    return blob + b"".join(v.to_bytes(w, "little") for v in data[:planned] + tag[:planned]) + body


def layout_of(blob):
    return parse(Files({"a_1.ser": blob}), "a_1.ser")


def seen(blob):
    """Frames of a layout with any number of files, looked up by hand."""
    layout = layout_of(blob)
    out = np.zeros((layout.image_count, *layout.sig_shape), layout.dtype)
    _, offset = layout.parts[0].locate(np.arange(layout.image_count))
    for frame, start in zip(out, offset, strict=True):
        if start >= 0:
            stored = np.frombuffer(blob, layout.dtype, layout.sig_size, start).reshape(layout.sig_shape)
            frame[...] = stored[::-1] if frame.ndim == 2 else stored
    return out


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("sig", [(5, 7), (11,)])
def test_pixels_of_every_dtype_and_width_of_offsets(tmp_path, dtype, wide, sig):
    frames = random_items(1, (6, *sig), dtype)
    blob = packed(frames, wide=wide)
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count, layout.notes) == ((6,), sig, 6, ())
    assert_same(decoded(layout, {"a_1.ser": blob}), frames)
    (tmp_path / "a_1.ser").write_bytes(blob)
    assert_same(gpuio.open(tmp_path / "a_1.ser", device="cpu")[...], frames)


def test_the_bottom_row_is_stored_first():
    blob = packed(np.arange(6, dtype="<u2").reshape(1, 2, 3))
    assert np.frombuffer(blob, "<u2", 6, len(blob) - 24 - 12).tolist() == [3, 4, 5, 0, 1, 2]
    assert decoded(layout_of(blob), {"a_1.ser": blob})[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_images_have_to_be_turned_and_spectra_may_be_views(tmp_path):
    for sig, needed in (((5, 7), True), ((11,), False)):
        (tmp_path / "a_1.ser").write_bytes(packed(random_items(2, (6, *sig), "f4")))
        assert gpuio.open(tmp_path / "a_1.ser", device="cpu").need_decode("float32", None, None) == needed


def test_maps_have_their_scan_shape_with_the_fastest_axis_last():
    layout = layout_of(packed(random_items(2, SHAPE, "u2"), dims=(2, 3)))
    assert (layout.nav_shape, layout.notes) == ((2, 3), ())


@pytest.mark.parametrize("gaps", [
    (1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 3, 0), (1, 2, 3, 4, 5, 6), (0, 7, 0, 7, 0, 0), (2, 2, 5, 5, 5, 0), (9, 0, 0, 9, 0, 0),
    (0, 0, 7, 3, 3, 3),
])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_elements_are_found_by_the_table_whatever_their_spacing(tmp_path, gaps, n):
    frames = random_items(3, (n, 5, 7), "i4")
    blob = packed(frames, gaps=gaps, before=5)
    assert_same(seen(blob), frames)
    (tmp_path / "a_1.ser").write_bytes(blob)
    ds = gpuio.open(tmp_path / "a_1.ser", device="cpu")
    assert_same(ds[...], frames)
    even = len(set(gaps[:n - 1])) <= 1
    assert [note.startswith("elements are not evenly spaced") for note in ds.notes] == [True] * (not even)


def test_evenly_spaced_elements_are_one_file_and_their_headers_are_sampled():
    files = Files({"a_1.ser": packed(random_items(4, (500, 2, 3), "u1"))})
    assert len(parse(files, "a_1.ser").parts[0]) == 1
    assert len(files.reads) < 100


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "version", "gaps", "sync_offset"), [
    ("u2", 0x0210, (0,), 0), ("i4", 0x0220, (0,), -3), ("f4", 0x0220, (0, 0, 0, 2, 9), 4),
])
def test_every_way_to_the_pixels(tmp_path, backend, dtype, version, gaps, sync_offset):
    frames = random_items(5, (23, 11, 13), dtype)
    path = str(tmp_path / "a_1.ser")
    synth.write("ser", path, [frames[:4], frames[4:]], nav_shape=(23,), sig_shape=(11, 13), version=version, gaps=gaps)
    check_every_way(lambda **kwargs: gpuio.load("ser", path=path, nav_shape=(3, 7), device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(3, 4, 13))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_spectra(tmp_path, backend):
    frames = random_items(6, (23, 37), "u4")
    path = str(tmp_path / "a_1.ser")
    synth.write("ser", path, [frames], nav_shape=(23,), sig_shape=(37,), positions=False)
    check_every_way(lambda **kwargs: gpuio.load("ser", path=path, nav_shape=(3, 7), device="cpu", **kwargs), frames, backend, 1,
                    tile=(3, 37))


# -- what was planned and what was written -----------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("entry", [None, 0, 1, 0xFFFFFFFF])
def test_an_aborted_series_ends_where_it_was(wide, entry):
    frames = random_items(7, (5, 5, 7), "f4")
    blob = packed(frames, dims=(200,), planned=200, wide=wide, entry=entry)
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.image_count) == ((5,), 5)
    assert layout.notes == ("5 of 200 elements were written: read as a series of 5",)
    assert_same(decoded(layout, {"a_1.ser": blob}), frames)
    assert layout.metadata["position_x_m"] == 0
    assert layout.metadata["time_utc_first"] == "2001-09-09T01:46:40+00:00"


def test_positions_that_an_aborted_map_did_not_reach_are_blank(tmp_path):
    frames = random_items(8, (5, 5, 7), "u2")
    (tmp_path / "a_1.ser").write_bytes(packed(frames, dims=(3, 4), planned=12))
    ds = gpuio.open(tmp_path / "a_1.ser", device="cpu")
    assert ds.notes == ("5 of 12 scan positions were written, the others are blank",)
    assert_same(ds[...], np.concatenate([frames, np.zeros((7, 5, 7), "u2")]).reshape(3, 4, 5, 7))


@pytest.mark.parametrize(("dims", "tags", "positions", "nav"), [
    ((), "position", None, (2, 3)), ((), "time", None, (6,)), ((), "position", [(i, 0) for i in range(6)], (6,)),
    ((), "position", [(i % 4, i // 4) for i in range(6)], (6,)), ((6,), "position", None, (6,)), ((4, 3), "position", None, (6,)),
    ((1 << 31, 1 << 31), "time", None, (6,)), ((7,), "time", None, (6,)), ((2, 1, 3), "time", None, (2, 1, 3)),
])
def test_scan_shapes(dims, tags, positions, nav):
    layout = layout_of(packed(random_items(9, SHAPE, "u2"), dims=dims, tags=tags, positions=positions))
    assert layout.nav_shape == nav
    assert len(layout.notes) == (dims in ((4, 3), (7,), (1 << 31, 1 << 31)) or nav == (2, 3))


def test_calibrations_become_metadata():
    layout = layout_of(packed(random_items(10, SHAPE, "u2"), dims=(2, 3)))
    axis = {"delta": -0.25, "first": 1.5 + 2.5 * 0.25, "description": "Position", "unit": "m"}
    assert dict(layout.metadata) == {
        "elements_planned": 6, "elements_written": 6, "nav_axes": [{"size": 2, **axis}, {"size": 3, **axis}],
        "sig_axes": [{"size": 5, "delta": -2.0, "first": 7.5}, {"size": 7, "delta": 2.0, "first": -0.5}],
        "time_utc_first": "2001-09-09T01:46:40+00:00", "position_x_m": 0.0, "position_y_m": 0.0}


# -- data sets and writer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nav", [(6,), (2, 3)])
@pytest.mark.parametrize("sig", [(5, 7), (11,)])
@pytest.mark.parametrize("wide", [False, True])
def test_the_writer_writes_what_is_described(tmp_path, nav, sig, wide):
    frames = random_items(11, (6, *sig), "i2")
    path = tmp_path / "a_1.ser"
    synth.write("ser", path, [frames[:1], frames[1:]], nav_shape=nav, sig_shape=sig, version=0x0220 if wide else 0x0210, planned=9,
                dimensions=(3, 3))
    ds = gpuio.load("ser", str(path), device="cpu", nav_shape=nav)
    assert_same(ds[...], frames.reshape(*nav, *sig))
    assert (ds.metadata["elements_planned"], ds.metadata["elements_written"]) == (9, 6)
    blob = path.read_bytes()
    element, tag_bytes = (50, 24) if len(sig) == 2 else (26, 24)
    stored = frames[:, ::-1] if len(sig) == 2 else frames
    first = len(blob) - 6 * (element + stored[0].nbytes + tag_bytes)
    for i, frame in enumerate(stored):
        start = first + i * (element + frame.nbytes + tag_bytes) + element
        assert blob[start:start + frame.nbytes] == frame.tobytes()


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"dtype": "f2"}, DataSetException, "dtype float16"), ({"version": 1}, DataSetException, "version 1"),
    ({"sig_shape": (5, 7, 1)}, ShapeError, "one or two axes"), ({"planned": 5}, ShapeError, "at least 6"),
    ({"dtype": "u1"}, DataSetException, "cannot be written as uint8"), ({"nav_shape": (7,)}, ShapeError, "there are 6 frames"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        synth.write("ser", tmp_path / "a_1.ser", [np.full(SHAPE, 300, "u2")], **{"nav_shape": (6,), "sig_shape": SHAPE[1:], **options})
    assert not list(tmp_path.iterdir())


def test_recognition_copies_and_a_parameter_without_effect(tmp_path):
    frames = random_items(12, SHAPE, "u2")
    blob = packed(frames)
    (tmp_path / "a.dat").write_bytes(blob)
    assert sniff(blob[:4096], "a.dat")
    assert sniff(b"JK\x00\x02", "a.emi")
    assert not sniff(b"JK\x00\x02", "a.ser")
    assert not sniff(b"LUCAM-RECORDER", "a.ser")
    ds = gpuio.open(tmp_path / "a.dat", device="cpu")
    assert ds.format == "ser"
    assert_same(pickle.loads(pickle.dumps(ds))[2:4, 1:3], frames[2:4, 1:3])
    assert SERDataSet.detect_params(str(tmp_path / "a.dat"))["info"] == {"image_count": 6, "native_sig_shape": (5, 7)}
    with pytest.warns(FutureWarning, match="emipath is deprecated"):
        SERDataSet("a_1.ser", "a.emi")


@needs_recordings
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), rows("ser"))
def test_recorded_pixels(name, shape, dtype, digest):
    ds = check(name, shape, dtype, digest)
    assert ds.notes == ()
