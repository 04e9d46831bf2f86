"""MRC files: headers packed by hand, every mode and byte order, scans told beside, every way to the pixels, recorded files."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, ShapeError
from gpuio.formats.mrc import MRCDataSet, parse, sniff
from gpuio.synth.mrc import header
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.mib_files import Files
from tests.formats.recorded import check, needs_recordings, rows

SHAPE = (6, 5, 7)
DTYPES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
RULE = "bytes are read as int8, as the standard says"


def packed(pixels, mode, tail=b"", order="<", extended=b"", **fields):
    """A file: `pixels` are sections on disk, whose shape the header tells unless `shape` is given."""
    shape = fields.pop("shape", pixels.shape)
    return header(shape, mode, byteorder=order, extended_bytes=len(extended), **fields) + extended + pixels.tobytes() + tail


def with_fields(blob, **fields):
    """Fields of a little-endian header by offset: ``b92=17`` (i32) or ``f84=1.5`` (f32)."""
    blob = bytearray(blob)
    for name, value in fields.items():
        struct.pack_into("<f" if name[0] == "f" else "<i", blob, int(name[1:]), value)
    return bytes(blob)


def layout_of(blob, path="a.mrc", beside=(), **kwargs):
    return parse(Files({path: blob, **dict(beside)}), path, **kwargs)


def frames_of(blob, **kwargs):
    return decoded(layout_of(blob, **kwargs), {"a.mrc": blob})


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", DTYPES)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("extended", [0, 100, 131072])
def test_pixels_of_every_mode(mode, order, extended):
    pixels = random_items(mode, SHAPE, order + DTYPES[mode])
    blob = packed(pixels, mode, order=order, extended=bytes(range(100)) * (extended // 100), mz=6)
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count) == ((6,), (5, 7), 6)
    assert_same(decoded(layout, {"a.mrc": blob}), pixels)


def test_worked_example_of_4_bits(tmp_path):
    (tmp_path / "a.mrc").write_bytes(packed(np.frombuffer(bytes.fromhex("21430576980A"), "u1").reshape(1, 2, 3), 101, shape=(1, 2, 5)))
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert ds[0].tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert ds.dtype == np.dtype("u1")


@pytest.mark.parametrize("width", [1, 6, 7, 33, 64])
@pytest.mark.parametrize("flags", [None, 16])
def test_4_bits_a_pixel(tmp_path, width, flags):
    frames = np.random.default_rng(width).integers(0, 16, (6, 5, width), dtype="u1")
    padded = np.pad(frames, [(0, 0), (0, 0), (0, width % 2)])
    blob = packed(padded[..., ::2] + 16 * padded[..., 1::2], 0 if flags else 101, shape=frames.shape)
    if flags:
        blob = with_fields(blob, b152=1146047817, b156=flags)
    (tmp_path / "a.mrc").write_bytes(blob)
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert_same(ds[...], frames)
    assert_same(ds[1:5, 1:-1, width // 2:], frames[1:5, 1:-1, width // 2:])
    assert ds.notes == ()


def test_4_bit_rows_without_ends_are_told_by_the_size(tmp_path):
    frames = np.random.default_rng(1).integers(0, 16, (3, 4, 7), dtype="u1")
    flat = frames.ravel()
    (tmp_path / "a.mrc").write_bytes(packed(flat[::2] + 16 * flat[1::2], 101, shape=frames.shape))
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert_same(ds[...], frames)
    assert "as RELION writes them" in ds.notes[0]
    assert_same(ds[:, 1:3, 2:5], frames[:, 1:3, 2:5])


@pytest.mark.parametrize(("flags", "options", "dtype", "note"), [
    (None, {}, "i1", RULE), (0, {}, "u1", "as uint8, as IMOD's flags say"), (1, {}, "i1", "as int8, as IMOD's flags say"),
    (None, {"unsigned": True}, "u1", "as uint8, as asked for"), (0, {"unsigned": False}, "i1", "as int8, as asked for"),
])
def test_bytes_are_signed_or_not_by_a_rule_that_is_noted(flags, options, dtype, note):
    pixels = random_items(1, SHAPE, dtype)
    blob = packed(pixels, 0)
    if flags is not None:
        blob = with_fields(blob, b152=1146047817, b156=flags)
    assert_same(frames_of(blob, **options), pixels)
    assert [note in found for found in layout_of(blob, **options).notes] == [True]


def test_a_largest_value_beyond_int8_is_a_hint_only():
    blob = with_fields(packed(random_items(1, SHAPE, "u1"), 0), f76=0.0, f80=200.0)
    assert layout_of(blob).dtype == np.dtype("i1")
    assert layout_of(blob).notes == (f"{RULE}; the header's largest value is 200, pass unsigned=True for uint8",)


@pytest.mark.parametrize("mode", [0, 1, 2, 4])
def test_transposed_images_are_turned(tmp_path, mode):
    pixels = random_items(mode, SHAPE, DTYPES[mode])
    blob = packed(pixels, mode, axes=(2, 1, 3))
    assert_same(frames_of(blob), pixels.transpose(0, 2, 1))
    (tmp_path / "a.mrc").write_bytes(blob)
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    assert_same(ds[...], pixels.transpose(0, 2, 1))
    assert_same(ds[1:4, 2:6, 1:3], pixels.transpose(0, 2, 1)[1:4, 2:6, 1:3])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("mode", "order", "sync_offset"), [(1, ">", 0), (2, "<", -3), (6, "<", 4), (101, "<", 2)])
def test_every_way_to_the_pixels(tmp_path, backend, mode, order, sync_offset):
    frames = random_items(mode, (23, 11, 13), {101: "u1"}.get(mode) or DTYPES[mode])
    frames = frames % 16 if mode == 101 else frames
    path = str(tmp_path / "a.mrc")
    synth.write("mrc", path, [frames[:4], frames[4:]], nav_shape=(23,), sig_shape=(11, 13), mode=mode, byteorder=order,
                extended=b"x" * 77)
    check_every_way(lambda **kwargs: gpuio.load("mrc", path=path, nav_shape=(3, 7), device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(3, 4, 13))


def test_frames_beyond_4_GiB_are_found(tmp_path):
    side, n = 4096, 300                      # 16 MiB of bytes each; the file has holes
    blob = header((n, side, side), 0)
    frame = random_items(1, (side, side), "i1")
    with open(tmp_path / "a.mrc", "wb") as file:
        file.write(blob)
        file.truncate(len(blob) + n * side * side)
        file.seek(len(blob) + (n - 2) * side * side)
        file.write(frame.tobytes())
    ds = gpuio.load("mrc", str(tmp_path / "a.mrc"), device="cpu", nav_shape=(20, 15))
    assert len(blob) + (n - 2) * side * side > 1 << 32
    assert_same(ds[19, 13], frame)
    assert not ds[19, 14].any()


# -- byte order and old files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x44\x44\0\0", b"\x11\x11\0\0", b"DA\0\0"])
@pytest.mark.parametrize("order", "<>")
def test_the_byte_order_is_that_in_which_the_header_makes_sense(order, stamp):
    pixels = random_items(3, SHAPE, order + "u2")
    blob = bytearray(packed(pixels, 6, order=order))
    blob[212:216] = stamp
    layout = layout_of(bytes(blob))
    assert_same(decoded(layout, {"a.mrc": bytes(blob)}), pixels)
    assert len(layout.notes) == ({0x44: "<", 0x11: ">"}.get(stamp[0]) != order)


@pytest.mark.parametrize("order", "<>")
def test_old_files_without_magic_are_recognised(order):
    pixels = random_items(4, SHAPE, order + "f4")
    blob = packed(pixels, 2, order=order, magic=False)
    assert sniff(blob, "a.mrc")
    assert_same(frames_of(blob), pixels)
    assert not sniff(blob[:1023], "a.mrc")
    assert not sniff(bytes(4096), "a.mrc")
    assert not sniff(header((1, 1 << 21, 3), 2, magic=False), "a.mrc")
    assert not sniff(np.random.default_rng(0).bytes(4096), "a.mrc")


# -- scans -------------------------------------------------------------------------------------------------------------

MOVIE = "20241021_00405_movie.mrc"
INFO = {"Scan - Enable": "Enable", "Scan - Type": "Raster", "Scan - Size X": "8", "Scan - Size Y": "4", "Scan - ROI Enable": "Disable",
        "Scan - Repeats": "1", "Frames Per Second": "281.5", "Instrument Accelerating Voltage (V)": "200000", "Image Size X (pixels)": "7"}


def movie(n=32, name="20241021_00405_info.txt", **changes):
    text = "".join(f"{key} = {value}\r\n" for key, value in {**INFO, **{k.replace("_", " "): v for k, v in changes.items()}}.items())
    return layout_of(packed(random_items(1, (n, 5, 7), "u2"), 6, mz=n), MOVIE, {name: text.encode()})


def test_movies_of_direct_electron_take_their_scan_from_beside():
    layout = movie()
    assert (layout.nav_shape, layout.notes) == ((4, 8), ())
    assert layout.metadata["beam_energy_V"] == 200000
    assert layout.metadata["frames_per_s"] == 281.5


@pytest.mark.parametrize(("n", "changes", "nav"), [
    (32, {"Scan - Enable": "Disable"}, (32,)),
    (6, {"Scan - ROI Enable": "Enable", "Scan - ROI Size X": "3", "Scan - ROI Size Y": "2"}, (2, 3)),
    (96, {"Scan - Repeats": "3"}, (3, 4, 8)),
])
def test_other_scans_of_direct_electron(n, changes, nav):
    layout = movie(n, **changes)
    assert (layout.nav_shape, layout.notes) == (nav, ())


@pytest.mark.parametrize(("n", "changes", "note"), [
    (31, {}, "announces a scan of 4 x 8 positions, 1 times; the file has 31 frames, which are read as a line"),
    (32, {"Scan - Type": "XY File"}, "the scan is no raster but 'XY File'"),
    (32, {"Scan - Size X": "eight"}, "announces a scan of 4 x 0 positions"),
    (32, {"Scan - Size X": "9" * 40}, "announces a scan of 4 x 0 positions"),
])
def test_scans_that_do_not_fit_are_a_line_with_a_note(n, changes, note):
    layout = movie(n, **changes)
    assert layout.nav_shape == (n,)
    assert [note in found for found in layout.notes] == [True]


@pytest.mark.parametrize("name", ["20241021_00406_info.txt", "movie_info.txt", "20241021_00405_movie_info.txt"])
def test_information_on_another_acquisition_is_left_alone(name):
    assert movie(name=name).nav_shape == (32,)


@pytest.mark.parametrize(("mz", "group", "nav"), [
    (3, 401, (2, 3)), (6, 1, (6,)), (6, 0, (6,)), (4, 401, (6,)), (2, 630, (3, 2)), (2, 631, (6,)),
])
def test_stacks_of_volumes_are_two_axes(mz, group, nav):
    assert layout_of(packed(random_items(5, SHAPE, "i2"), 1, mz=mz, space_group=group)).nav_shape == nav


@pytest.mark.parametrize(("kind", "size"), [(b"FEI1", 768), (b"FEI2", 888)])
@pytest.mark.parametrize("order", "<>")
def test_extended_headers_of_thermo_fisher(kind, size, order):
    block = bytearray(size)
    struct.pack_into(f"{order}2i", block, 0, size, 2)
    struct.pack_into(f"{order}d", block, 84, 300000.0)
    struct.pack_into(f"{order}d", block, 301, 1.5)
    struct.pack_into(f"{order}d", block, 571, float("nan"))
    block[435:439] = b"Ceta"
    struct.pack_into(f"{order}4i", block, 587, 10, 20, 13, 22)
    pixels = random_items(6, SHAPE, order + "i2")
    layout = layout_of(packed(pixels, 1, order=order, extended=bytes(block) * 8 + b"rest", extended_type=kind))
    assert layout.nav_shape == (2, 3)
    found = {key: layout.metadata[key] for key in ("beam_energy_V", "camera_length_m", "camera", "extended_header")}
    assert found == {"beam_energy_V": 300000.0, "camera_length_m": 1.5, "camera": "Ceta", "extended_header": kind.decode()}
    assert "dwell_time_s" not in layout.metadata
    assert layout_of(packed(pixels[:5], 1, order=order, extended=bytes(block), extended_type=kind)).nav_shape == (5,)
    assert "beam_energy_V" not in layout_of(packed(pixels, 1, order=order, extended=b"x" * 999, extended_type=kind)).metadata


def test_what_the_header_says_becomes_metadata():
    blob = with_fields(packed(random_items(7, SHAPE, "f4"), 2), f76=-1.0, f80=3.0, f84=0.5, f216=2.0, f40=-80.0)
    assert dict(layout_of(blob).metadata) == {
        "mode": 2, "byte_order": "<", "space_group": 0, "data_offset_bytes": 1024, "labels": ["gpuio: synthetic scan"],
        "pixel_size_y_A": 2.0, "pixel_size_z_A": 2.0, "minimum": -1.0, "maximum": 3.0, "mean": 0.5, "rms": 2.0}


# -- data sets and writer ----------------------------------------------------------------------------------------------


def test_missing_frames_are_blank(tmp_path):
    frames = random_items(8, SHAPE, "u2")
    (tmp_path / "a.mrc").write_bytes(packed(frames, 6)[:-71])
    ds = gpuio.open(tmp_path / "a.mrc", device="cpu")
    frames[4:] = 0
    assert_same(ds[...], frames)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"mode": 3}, DataSetException, "mode 3"), ({"byteorder": "="}, DataSetException, "byte order '='"),
    ({"sig_shape": (35,)}, ShapeError, "height, width"), ({"mode": 101}, DataSetException, "cannot be written as mode 101"),
    ({"mode": 0}, DataSetException, "cannot be written as int8"), ({"nav_shape": (7,)}, ShapeError, "there are 6 frames"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        synth.write("mrc", tmp_path / "a.mrc", [np.full(SHAPE, 200, "u1")], **{"nav_shape": (6,), "sig_shape": SHAPE[1:], **options})
    assert not list(tmp_path.iterdir())


def test_copies_and_keys(tmp_path):
    pixels = random_items(9, SHAPE, "u1")
    (tmp_path / "a.dat").write_bytes(packed(pixels, 0))
    ds = gpuio.load("mrc", tmp_path / "a.dat", device="cpu", unsigned=True, sig_shape=(35,))
    assert_same(pickle.loads(pickle.dumps(ds))[3], pixels[3].ravel())
    assert ds.get_cache_key()["unsigned"] is True
    assert MRCDataSet.detect_params(str(tmp_path / "a.dat"))["info"] == {"image_count": 6, "native_sig_shape": (5, 7)}


@needs_recordings
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), rows("mrc"))
def test_recorded_pixels(name, shape, dtype, digest):
    check(name, shape, dtype, digest)
