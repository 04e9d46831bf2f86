"""Blockfiles: headers packed by hand, every way to the pixels, damage, and recorded files."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio import synth
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats.blo import BloDataSet, parse, sniff
from tests.formats.every_way import BACKENDS, check_every_way
from tests.formats.items import decoded, random_items
from tests.formats.mib_files import Files
from tests.formats.recorded import check, needs_recordings, rows

SIDE, NAV = 7, (3, 5)


def packed(pixels, nav=NAV, o1=300, o2=330, order="<", version=258, note=b"", numbers=None, tail=b"", **fields):
    """A file by hand: `pixels` are frames on disk."""
    side = fields.get("side", pixels.shape[1])
    head = bytearray(struct.pack(f"{order}6sHIIIHHHHHddIHId", b"IMGBLO", version, o1, o2, 131135, side, 150, nav[1], nav[0], 2500, 64.0,
                                 32.0, 200000, 6226, 2000, 42339.5))
    head += struct.pack(f"{order}22d", *range(22)) + note
    head = head.ljust(o2, b"\0")
    head[o1:o1 + nav[0] * nav[1]] = np.arange(nav[0] * nav[1], dtype="u1").tobytes()
    numbers = range(len(pixels)) if numbers is None else numbers
    return bytes(head[:o2]) + b"".join(b"\xaa\x55" + struct.pack(f"{order}I", i) + frame.tobytes()
                                       for i, frame in zip(numbers, pixels, strict=True)) + tail


def layout_of(blob, **kwargs):
    return parse(Files({"a.blo": blob}), "a.blo", **kwargs)


def frames_of(blob, **kwargs):
    return decoded(layout_of(blob, **kwargs), {"a.blo": blob})


DEPTH_16 = b"Gamma: on\r\nBlo Bit Depth: 16 bits\r\n"


# -- layouts ---------------------------------------------------------------------------------------------------------


def test_worked_example_of_16_bits():
    pixels = np.arange(96, dtype="<u2").reshape(6, 4, 4)
    blob = packed(pixels, (2, 3), 4096, 4112, version=259, note=DEPTH_16)
    assert struct.unpack_from("<H", blob, 4282) == (4 * 16 + 6,)
    assert frames_of(blob)[4, 1, 2] == 70


@pytest.mark.parametrize(("dtype", "version", "note"), [("<u1", 258, b""), ("<u1", 259, b"Gamma: on"), ("<u2", 259, DEPTH_16),
                                                       ("<u2", 259, b"BLO BIT DEPTH:16 Bits"), ("<u1", 259, b"Blo Bit Depth: 8 bits")])
@pytest.mark.parametrize("order", "<>")
def test_pixels_of_files_made_by_hand(dtype, version, note, order):
    pixels = random_items(1, (15, SIDE, SIDE), dtype.replace("<", order))
    blob = packed(pixels, version=version, note=note, order=order)
    layout = layout_of(blob)
    assert (layout.nav_shape, layout.sig_shape, layout.image_count) == (NAV, (SIDE, SIDE), 15)
    np.testing.assert_array_equal(decoded(layout, {"a.blo": blob}), pixels)
    assert len(layout.notes) == (order == ">")


def test_what_the_header_says_becomes_metadata():
    layout = layout_of(packed(random_items(2, (15, SIDE, SIDE), "u1"), note=b"Precession angle: 0.5\r\n\r\nGamma: on\0junk"))
    assert dict(layout.metadata) == {
        "version": 258, "flags": 131135, "pattern_rotation_deg": 1.5, "scan_rotation_deg": 25.0, "scan_step_x_nm": 64.0,
        "scan_step_y_nm": 32.0, "beam_energy_V": 200000, "camera_length_mm": 200.0, "pixel_size_cm": 100 / 6226,
        "acquired": "2015-12-01T12:00:00", "centering": [*range(8)], "distortion": [*range(8, 22)], "bit_depth": 8,
        "note": ["Precession angle: 0.5", "Gamma: on"]}
    assert layout.notes == ()


@pytest.mark.parametrize("note", [b"Blo Bit Depth: 12 bits", b"Blo Bit Depth: none", b"", b"Blo Bit Depth: 8 bits"])
def test_the_size_of_the_file_wins_over_the_note(note):
    pixels = random_items(3, (15, SIDE, SIDE), "<u2")
    blob = packed(pixels, version=259, note=note)
    np.testing.assert_array_equal(frames_of(blob), pixels)
    assert layout_of(blob).notes[0].startswith("the records have 16 bits a pixel; the note has ")


def test_the_mark_of_the_second_record_tells_where_the_size_does_not():
    pixels = random_items(4, (15, SIDE, SIDE), "<u2")
    blob = packed(pixels)[:-3 * (6 + 98) - 1]
    layout = layout_of(blob)
    assert layout.image_count == 15
    assert layout.dtype == np.dtype("u2")
    assert "11 whole frames" in layout.notes[1]


def test_a_bit_depth_that_nothing_confirms_is_refused():
    blob = packed(random_items(5, (1, SIDE, SIDE), "u1"), (1, 1), note=b"Blo Bit Depth: 12 bits", tail=b"x")
    with pytest.raises(UnsupportedFeature, match=r"a\.blo: the note says 'Blo Bit Depth: 12 bits'"):
        layout_of(blob)


def test_a_record_out_of_place_is_noted():
    pixels = random_items(6, (15, SIDE, SIDE), "u1")
    layout = layout_of(packed(pixels, numbers=[*range(9), *range(10, 16)]))
    assert layout.notes == ("record 9 begins with aa 55 0a 00 00 00; expected aa 55 and its number: frames may be missing or shifted",)


def test_the_virtual_bright_field_is_there(tmp_path):
    (tmp_path / "a.blo").write_bytes(packed(random_items(7, (15, SIDE, SIDE), "u1")))
    np.testing.assert_array_equal(BloDataSet(tmp_path / "a.blo").virtual_bright_field(), np.arange(15).reshape(NAV))
    (tmp_path / "b.blo").write_bytes(packed(random_items(7, (15, SIDE, SIDE), "u1"), o1=320))
    with pytest.raises(FormatError, match="holds no virtual bright field of 3 x 5 pixels"):
        BloDataSet(tmp_path / "b.blo").virtual_bright_field()


# -- damage ----------------------------------------------------------------------------------------------------------

GOOD = packed(random_items(8, (15, SIDE, SIDE), "u1"))


def changed(at, new):
    return GOOD[:at] + new + GOOD[at + len(new):]


@pytest.mark.parametrize(("blob", "error", "message"), [
    (b"", FormatError, "no blockfile: begins with b''"),
    (b"IMGBLA" + GOOD[6:], FormatError, "begins with b'IMGBLA'; expected b'IMGBLO'"),
    (changed(6, b"\x04\x01"), FormatError, "version 260; expected 258 or 259"),
    (changed(20, b"\0\0"), FormatError, "is empty: frames of 0 x 0 pixels"),
    (changed(24, b"\0\0"), FormatError, "is empty: frames of 7 x 7 pixels, 3 x 0 scan positions"),
    (changed(26, b"\0\0"), FormatError, "0 x 5 scan positions"),
    (changed(8, struct.pack("<I", 239)), FormatError, "virtual bright field is announced at byte 239, the first frame at 330"),
    (changed(12, struct.pack("<I", 299)), FormatError, "at byte 300, the first frame at 299"),
    (changed(12, struct.pack("<I", 4_000_000_000)), TruncatedFile, "first frame is announced at byte 4000000000"),
    (changed(20, b"\xff\xff"), TruncatedFile, "0 whole frames of 4294836231 bytes; the header announces 15"),
    (changed(24, b"\xff\xff\xff\xff"), TruncatedFile, "15 whole frames of 55 bytes; the header announces 4294836225"),
])
def test_bad_files_are_refused_with_one_clear_line(blob, error, message):
    with pytest.raises(error, match=message) as caught:
        layout_of(blob)
    assert str(caught.value).startswith("a.blo: ")
    assert "\n" not in str(caught.value)


def test_every_prefix_is_refused_or_noted_and_shows_whole_frames_only():
    pixels = frames_of(GOOD)
    for n in range(len(GOOD)):
        if n < 330 + 55:
            with pytest.raises(FormatError, match=r"^a\.blo: "):
                layout_of(GOOD[:n])
            continue
        layout = layout_of(GOOD[:n])
        whole = layout.parts[0].image_count
        assert (layout.image_count, whole) == (15, (n - 330) // 55)
        assert "the file is truncated" in layout.notes[0]
    part = layout_of(GOOD[:330 + 4 * 55 + 54])
    assert part.parts[0].image_count == 4
    assert part.present(np.arange(15)).tolist() == [True] * 4 + [False] * 11
    assert pixels.shape[0] == 15


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=4)), max_size=4))
def test_damaged_headers_give_a_layout_inside_the_file_or_an_error(damage):
    blob = bytearray(GOOD)
    for at, new in damage:
        blob[at:at + len(new)] = new
    try:
        layout = layout_of(bytes(blob))
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        (file,) = layout.parts[0]
        assert file.file_header + file.num_frames * file.stride <= len(blob)


def test_big_endian_is_checked_where_it_is_asked_for():
    big = packed(random_items(9, (15, SIDE, SIDE), ">u2"), order=">", version=259, note=DEPTH_16)
    assert layout_of(big, endianess=">").notes == ()
    with pytest.raises(FormatError, match="is little-endian; expected a big-endian file"):
        layout_of(GOOD, endianess=">")
    with pytest.raises(DataSetException, match="endianess is 'big'; expected '<' or '>'"):
        BloDataSet("a.blo", endianess="big")


# -- data sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("bits", "order", "sync_offset"), [(8, "<", 0), (8, "<", 4), (16, "<", -3), (16, ">", 2)])
def test_every_way_to_the_pixels(tmp_path, backend, bits, order, sync_offset):
    frames = random_items(10, (23, 11, 11), f"u{bits // 8}")
    path = str(tmp_path / "a.blo")
    synth.write("blo", path, [frames[:4], frames[4:5], frames[5:]], nav_shape=(1, 23), sig_shape=(11, 11), bits=bits, endianess=order)
    check_every_way(lambda **kwargs: gpuio.load("blo", path=path, nav_shape=(3, 7), device="cpu", **kwargs), frames, backend, sync_offset,
                    tile=(3, 4, 11))


def test_missing_frames_are_blank(tmp_path):
    frames = random_items(11, (15, SIDE, SIDE), "u1")
    (tmp_path / "a.blo").write_bytes(packed(frames)[:-5 * 55 - 7])
    ds = gpuio.open(tmp_path / "a.blo", device="cpu")
    frames[9:] = 0
    np.testing.assert_array_equal(ds[...], frames.reshape(*NAV, SIDE, SIDE))


def test_the_writer_writes_what_is_described(tmp_path):
    frames = random_items(12, (6, 5, 5), "u2")
    synth.write("blo", tmp_path / "a.blo", [frames], nav_shape=(2, 3), sig_shape=(5, 5), bits=16, padding=3)
    blob = (tmp_path / "a.blo").read_bytes()
    records = np.frombuffer(blob, [("mark", "V2"), ("number", "<u4"), ("pixels", "<u2", (5, 5))], offset=4096 + 6 + 3)
    assert records["number"].tolist() == [*range(6)]
    assert set(records["mark"].tolist()) == {b"\xaa\x55"}
    np.testing.assert_array_equal(records["pixels"], frames)
    sums = frames.sum(axis=(1, 2), dtype="f8")
    np.testing.assert_array_equal(np.frombuffer(blob, "u1", 6, 4096), (sums * (255 / sums.max())).astype("u1"))


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"bits": 12}, DataSetException, "bits 12"), ({"endianess": "="}, DataSetException, "endianess '='"),
    ({"sig_shape": (5, 7)}, ShapeError, "square"), ({"note": "x" * 5000}, DataSetException, "the note has 5000 bytes"),
    ({}, DataSetException, "value 300 cannot be written as uint8"), ({"nav_shape": (1, 1 << 16)}, ShapeError, "65535"),
])
def test_what_cannot_be_written_leaves_no_file(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        synth.write("blo", tmp_path / "a.blo", [np.full((6, 5, 5), 300)], **{"nav_shape": (2, 3), "sig_shape": (5, 5), **options})
    assert not list(tmp_path.iterdir())


def test_recognition_messages_and_copies(tmp_path):
    (tmp_path / "a.dat").write_bytes(GOOD)
    assert sniff(GOOD[:4096], "a.dat")
    assert not sniff(b"IMGBL", "a.blo")
    assert gpuio.detect(tmp_path / "a.dat")["format"] == "blo"
    ds = gpuio.load("blo", tmp_path / "a.dat", device="cpu", sig_shape=(49,))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds))[1, 2], frames_of(GOOD)[7].ravel())
    found = BloDataSet.detect_params(str(tmp_path / "a.dat"))
    assert found["parameters"]["nav_shape"] == NAV
    message = {"type": "BLO", "path": "a.blo", "endianess": ">", "nav_shape": [3, 5], "sync_offset": 2}
    assert BloDataSet.get_msg_converter()().to_python(message) == {"path": "a.blo", "endianess": ">", "nav_shape": (3, 5), "sync_offset": 2}
    with pytest.warns(FutureWarning, match="tileshape"):
        BloDataSet("a.blo", (1, 8, 8))


@needs_recordings
@pytest.mark.parametrize(("name", "shape", "dtype", "digest"), rows("blo"))
def test_recorded_pixels(name, shape, dtype, digest):
    ds = check(name, shape, dtype, digest)
    assert ds.sum_sig().ravel().tolist() == [473, 537, 534, 482, 388, 538]
    assert ds.notes == ()
