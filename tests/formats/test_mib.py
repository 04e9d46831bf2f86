"""MIB headers, series of files and pixels, against headers written by hand and arrays before encoding.

`pixels` below decodes a layout from the published formulas, one index array a piece; it shares nothing with the engines.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats.mib import MIBDataSet, parse, sniff
from gpuio.synth import mib as synth

DACS = "011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"


class Files(dict):
    """A `Source` made of a dictionary: path to bytes. Counts what is read from each."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reads = []

    def read(self, path, offset, size):
        if path not in self:
            raise FileNotFoundError(2, "no such file", path)
        self.reads.append((path, offset, size))
        return self[path][offset:offset + size]

    def size(self, path):
        return len(self[path])

    def listdir(self, folder):
        return sorted(os.path.basename(p) for p in self if os.path.dirname(p) == folder)


def header(sequence=1, length=384, chips=1, width=256, height=256, kind="U16", layout="   1x1", thresholds=True, dacs=True,
           extension=True, depth=12, time="2021-04-15T13:44:43.100924481", after=""):
    """A frame header as Merlin writes it."""
    fields = ["MQ1", f"{sequence:06d}", f"{length:05d}", f"{chips:02d}", f"{width:04d}", f"{height:04d}", kind, layout, "0F",
              "2021-04-15 14:44:43.100924", "0.001000", "0", "0", "2",
              "2.000000E+0,5.110000E+2," + ",".join(["0.000000E+0"] * 6) if thresholds else ""]
    fields += [f"3RX,{DACS}"] * chips if dacs else []
    fields += ["MQ1A", f"{time}Z", "1000000ns", f"{depth}", ""] if extension else []
    text = ",".join(fields) + after
    assert len(text) <= length
    return text.encode("latin-1").ljust(length, b"\0")


def u16_file(frames, sequence=1, length=384, **kwargs):
    """Frames of uint16 with headers, numbered from `sequence` on."""
    n, height, width = frames.shape
    return b"".join(header(sequence + i, length, width=width, height=height, **kwargs) + frame.astype(">u2").tobytes()
                    for i, frame in enumerate(frames))


def random_frames(seed, n, height=7, width=13, top=1 << 16):
    return np.random.default_rng(seed).integers(0, top, (n, height, width)).astype("u4" if top > 1 << 16 else "u2")


def pixels(layout, files):
    """All frames of a layout, decoded from the formulas; frames in no file stay zero."""
    encoding = layout.encoding
    out = np.zeros((layout.image_count, int(np.prod(layout.sig_shape))), encoding.dtype)
    for file in layout.parts[0]:
        stride = file.frame_header + file.native_dtype.itemsize * int(np.prod(file.sig_shape)) + file.frame_footer
        for j in range(file.end_idx - file.start_idx):
            start = file.file_header + j * stride + file.frame_header
            blob = np.frombuffer(files[file.path][start:start - file.frame_header + stride], "u1").astype(np.int64)
            for p in layout.pieces:
                row, repeat, i = np.ogrid[:p.rows, :p.repeats, :p.pixels]
                src = p.src + row * p.row_src + repeat * p.rep_src
                pos = p.pos + row * p.row_pos + repeat * p.rep_pos + (-i if p.reversed else i)
                out[file.start_idx + j, pos] = value(blob, src, i + p.skipped, encoding)
    return out.reshape(layout.image_count, *layout.sig_shape)


def value(blob, src, x, encoding):
    """Pixel x of runs that start at byte src."""
    if encoding.name == "mib_r1":
        return blob[src + (x >> 6) * 8 + 7 - ((x >> 3) & 7)] >> (x & 7) & 1
    if encoding.name == "mib_r6":
        return blob[src + (x ^ 7)]
    if encoding.name in ("mib_r12", "mib_r24"):
        at = src + 2 * (x ^ 3)
        high = blob[at] << 8 | blob[at + 1]
        if encoding.name == "mib_r12":
            return high
        return high * 4096 + (blob[at + encoding.param] << 8 | blob[at + encoding.param + 1])
    assert encoding.name in ("plain", "swap")
    size = encoding.dtype.itemsize
    assert size == 1 or encoding.name == "swap"
    return sum(blob[src + x * size + k] << 8 * (size - 1 - k) for k in range(size))


# -- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,dtype,top", [("U08", "u1", 1 << 8), ("U16", "u2", 1 << 16), ("U32", "u4", 1 << 32)])
def test_integers_are_big_endian_behind_each_header(kind, dtype, top):
    frames = np.random.default_rng(1).integers(0, top, (3, 7, 13)).astype(dtype)
    files = Files({"a.mib": b"".join(header(i + 1, 340, width=13, height=7, kind=kind, dacs=False) + f.astype(f">{dtype}").tobytes()
                                     for i, f in enumerate(frames))})
    layout = parse(files, "a.mib")
    assert (layout.sig_shape, layout.dtype, layout.image_count, layout.nav_shape) == ((7, 13), np.dtype(dtype), 3, None)
    assert np.array_equal(pixels(layout, files), frames)
    assert layout.notes == ()


@pytest.mark.parametrize("kind,dtype,shape,top", [
    ("R1", "u1", (5, 192), 2), ("R6", "u1", (7, 24), 64), ("R12", "u2", (7, 20), 4096), ("R24", "u4", (7, 20), 1 << 24)])
def test_packed_frames_of_one_chip(tmp_path, kind, dtype, shape, top):
    frames = np.random.default_rng(2).integers(0, top, (3, *shape)).astype("u4")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(3,), sig_shape=shape, kind=kind, hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path)
    assert (layout.sig_shape, layout.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(pixels(layout, files), frames)


@pytest.mark.parametrize("kind,dtype,side,top", [("R1", "u1", 128, 2), ("R6", "u1", 48, 64), ("R12", "u2", 40, 4096)])
@pytest.mark.parametrize("chips", ["2x2", "2x2G"])
def test_packed_quads(tmp_path, kind, dtype, side, top, chips):
    frames = np.random.default_rng(3).integers(0, top, (3, side, side)).astype("u2")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(3,), sig_shape=(side, side), kind=kind, layout=chips, hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path)
    assert (layout.sig_shape, layout.dtype) == ((side, side), np.dtype(dtype))
    assert np.array_equal(pixels(layout, files), frames)


def test_gap_leaves_a_cross_free_between_the_chips(tmp_path):
    frames = np.random.default_rng(4).integers(1, 4096, (2, 40, 40)).astype("u2")
    path = str(tmp_path / "a.mib")
    synth.write(path, [frames], nav_shape=(2,), sig_shape=(40, 40), kind="R12", layout="2x2G", hdr=False)
    files = Files({path: (tmp_path / "a.mib").read_bytes()})
    layout = parse(files, path, gap=True)
    expected = np.zeros((2, 42, 42), "u2")
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected[:, 22 * y:22 * y + 20, 22 * x:22 * x + 20] = frames[:, 20 * y:20 * y + 20, 20 * x:20 * x + 20]
    assert layout.sig_shape == (42, 42)
    assert np.array_equal(pixels(layout, files), expected)


@pytest.mark.parametrize("depth,data,expected", [
    (1, "0100000000000080", {7: 1, 56: 1}),
    (6, "0001020304050607", dict(enumerate([7, 6, 5, 4, 3, 2, 1, 0]))),
    (12, "0001000200030FFF", dict(enumerate([4095, 3, 2, 1]))),
    (24, "0000000000000ABC" "0000000000000DEF", {0: 0xABCDEF}),
])
def test_worked_examples_of_a_group(depth, data, expected):
    width = {1: 64, 6: 8, 12: 4, 24: 4}[depth]
    stored = width * (2 if depth == 24 else 1)
    files = Files({"a.mib": header(kind="R64", width=stored, height=1, depth=depth) + bytes.fromhex(data)})
    frame = pixels(parse(files, "a.mib"), files)[0, 0]
    assert frame.tolist() == [expected.get(x, 0) for x in range(width)]


@pytest.mark.parametrize("row,block,x,target", [
    (0, 3, 0, (0, 0)), (0, 2, 0, (0, 256)), (0, 1, 0, (511, 255)), (0, 0, 0, (511, 511)),
    (255, 3, 255, (255, 255)), (255, 0, 255, (256, 256)), (10, 1, 20, (501, 235)),
])
def test_worked_examples_of_a_quad(row, block, x, target):
    stored = np.zeros((256, 4, 256), ">u2")
    stored[row, block, x ^ 3] = 1234
    files = Files({"a.mib": header(length=768, chips=4, width=1024, kind="R64", layout="   2x2") + stored.tobytes()})
    frame = pixels(parse(files, "a.mib"), files)[0]
    assert frame.shape == (512, 512)
    assert {tuple(map(int, at)) for at in np.argwhere(frame)} == {target} and frame[target] == 1234


def test_a_quad_is_two_pieces_that_write_each_pixel_once():
    files = Files({"a.mib": header(length=768, chips=4, width=1024, kind="R64", layout="   2x2") + bytes(1024 * 256 * 2)})
    layout = parse(files, "a.mib")
    assert len(layout.pieces) == 2
    written = np.zeros(512 * 512, int)
    for p in layout.pieces:
        row, repeat, i = np.ogrid[:p.rows, :p.repeats, :p.pixels]
        np.add.at(written, p.pos + row * p.row_pos + repeat * p.rep_pos + (-i if p.reversed else i), 1)
    assert (written == 1).all()


# -- headers ---------------------------------------------------------------------------------------------------------


def test_metadata_has_units_in_its_keys():
    files = Files({"a.mib": header(1, length=768, chips=4) + bytes(131072)
                   + header(2, length=768, chips=4, time="2021-04-15T13:44:43.200924481") + bytes(131072)})
    metadata = parse(files, "a.mib").metadata
    assert metadata["exposure_s"] == 0.001
    assert metadata["thresholds_keV"] == [2.0, 511.0, 0, 0, 0, 0, 0, 0]
    assert metadata["time_utc_first"] == "2021-04-15T13:44:43.100924481Z"
    assert metadata["time_utc_last"] == "2021-04-15T13:44:43.200924481Z"
    assert metadata["time_local"] == "2021-04-15 14:44:43.100924"
    assert (metadata["counter_depth_bit"], metadata["chip_select"], metadata["n_chips"]) == (12, 15, 4)
    assert (metadata["counter"], metadata["is_colour"], metadata["gain_mode"]) == (0, False, "HGM")
    assert metadata["dacs"] == [[int(n) for n in DACS.split(",")]] * 4
    json.dumps(metadata)


def test_thresholds_and_dacs_may_be_missing():
    files = Files({"a.mib": header(thresholds=False, dacs=False) + bytes(131072)})
    metadata = parse(files, "a.mib").metadata
    assert not {"thresholds_keV", "dacs"} & metadata.keys()
    assert metadata["counter_depth_bit"] == 12 and metadata["exposure_s"] == 0.001


def test_text_after_the_extension_does_not_disturb_the_depth():
    files = Files({"a.mib": header(kind="R64", depth=6, after="future,3\r\n") + bytes(65536)})
    assert parse(files, "a.mib").encoding.name == "mib_r6"


def test_sequence_numbers_may_outgrow_their_six_digits():
    frames = random_frames(5, 3)
    files = Files({"a.mib": u16_file(frames, sequence=1234567)})
    assert np.array_equal(pixels(parse(files, "a.mib"), files), frames)


def test_a_header_longer_than_what_is_read_at_once():
    frames = random_frames(6, 2)
    files = Files({"a.mib": u16_file(frames, length=9001)})
    assert np.array_equal(pixels(parse(files, "a.mib"), files), frames)


def test_depth_of_raw_frames_comes_from_the_hdr_if_the_header_lacks_it():
    data = np.random.default_rng(7).integers(0, 64, (256, 256)).astype("u1")
    packed = data.reshape(256, 32, 8)[:, :, ::-1].tobytes()
    files = Files({"a.mib": header(kind="R64", extension=False) + packed, "a.hdr": b"HDR,\t\r\nCounter Depth (number):\t6\r\nEnd\t"})
    assert np.array_equal(pixels(parse(files, "a.mib"), files)[0], data)
    del files["a.hdr"]
    with pytest.raises(FormatError, match=r"a\.mib: RAW frames with a counter depth of None bit; expected 1, 6, 12 or 24"):
        parse(files, "a.mib")


# -- bad input -------------------------------------------------------------------------------------------------------

GOOD = header() + bytes(131072)


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize("content,error,message", [
    (b"", TruncatedFile, "nothing here; expected the header of a MIB frame"),
    (b"\x93NUMPY" + bytes(500), FormatError, r"not the header of a MIB frame, it begins with b'\\x93NUMPY\\x00\\x00'; expected b'MQ1,'"),
    (b"MPX,0000131457,MQ1,000001,00384", FormatError, "capture of Merlin's TCP stream"),
    (b"MQ1,000001,00040," + bytes(60), FormatError, "has 4 fields; expected at least 8"),
    (changed(b"0256,0256", b"0256,02x6"), FormatError, "stored height '02x6'; expected a number"),
    (changed(b"0256,0256", b"0256,-256"), FormatError, "stored height '-256'; expected a number"),
    (changed(b"MQ1,000001", b"MQ1,00000\xb2"), FormatError, "sequence number '00000\xb2'; expected a number"),
    (changed(b"MQ1,000001", b"MQ1,00000000000000000000000000001"), FormatError, "sequence number"),
    (changed(b"MQ1,000001", b"MQ1,99999999999"), FormatError, "sequence number 99999999999; expected at most 2147483648"),
    (changed(b"0256,0256", b"0000,0256"), FormatError, "frames of 0 x 256 pixels; expected 1 to 2147483648"),
    (changed(b"0256,0256", b"65536,65536"), FormatError, "frames of 65536 x 65536 pixels"),
    (changed(b"00384", b"00000"), FormatError, "header length 0; expected 5 to 1048576 bytes"),
    (changed(b"00384", b"999999999"), FormatError, "header length 999999999; expected 5 to 1048576 bytes"),
    (changed(b"00384", b"999999"), TruncatedFile, "ends after 131457 of the 999999 bytes of this frame header"),
    (changed(b"0256,0256", b"9999,9999"), TruncatedFile, "131456 bytes; expected at least one frame of 199960386"),
    (changed(b"U16", b"U64"), UnsupportedFeature, "pixel type 'U64'; expected U08, U16, U32 or R64"),
    (changed(b"U16", b"U01"), UnsupportedFeature, "pixel type 'U01'"),
    (changed(b"U16", b"R64").replace(b"ns,12", b"ns,11"), FormatError, "counter depth of 11 bit; expected 1, 6, 12 or 24"),
    (changed(b"U16,   1x1", b"R64,   Nx1"), UnsupportedFeature, "12-bit RAW frames, layout Nx1 of 1 chips, stored as 256 x 256"),
    (changed(b"U16,   1x1", b"R64,   2x2"), UnsupportedFeature, "12-bit RAW frames, layout 2x2 of 1 chips"),
    (changed(b"0256,0256,U16", b"0254,0256,R64"), FormatError, "stored width 254; expected a multiple of 4 for 12-bit RAW frames"),
    (GOOD[:-1], TruncatedFile, "131455 bytes; expected at least one frame of 131456"),
])
def test_bad_files_are_refused_with_one_clear_line(content, error, message):
    with pytest.raises(error, match=message) as caught:
        parse(Files({"/data/bad.mib": content}), "/data/bad.mib")
    assert str(caught.value).startswith("/data/bad.mib") and "\n" not in str(caught.value)


def test_quads_that_nobody_has_described_are_refused():
    for kwargs in ({"depth": 24, "width": 2048}, {"height": 128}):
        size = {"chips": 4, "length": 768, "width": 1024, "kind": "R64", "layout": "   2x2", **kwargs}
        with pytest.raises(UnsupportedFeature, match="expected one chip"):
            parse(Files({"a.mib": header(**size) + bytes(1 << 21)}), "a.mib")


def test_gap_is_refused_where_frames_have_none_or_their_own():
    with pytest.raises(UnsupportedFeature, match="gap=True is for RAW frames of 2x2 chips; found U16 frames, layout 1x1"):
        parse(Files({"a.mib": GOOD}), "a.mib", gap=True)


def test_every_prefix_of_a_file_is_refused():
    whole = u16_file(random_frames(8, 1, 3, 5))
    assert parse(Files({"a.mib": whole}), "a.mib").image_count == 1
    for n in range(len(whole)):
        with pytest.raises(FormatError, match=r"^a\.mib"):
            parse(Files({"a.mib": whole[:n]}), "a.mib")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from([b",", b"0", b"9", b"-", b"\0", b"\xff", b"R64", b"99999999"])), max_size=6))
def test_damaged_headers_give_a_layout_inside_the_file_or_an_error(damage):
    whole = bytearray(u16_file(random_frames(9, 2, 8, 64)))
    for at, new in damage:
        whole[at:at + len(new)] = new
    try:
        layout = parse(Files({"a.mib": bytes(whole)}), "a.mib")
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        (file,) = layout.parts[0]
        assert file.file_header + file.num_frames * file.stride <= len(whole)


def test_a_wrong_frame_size_shows_at_the_second_frame():
    frames = random_frames(10, 3)
    whole = u16_file(frames)
    with pytest.raises(FormatError, match=r"a\.mib, byte 566: not the header of a MIB frame"):
        parse(Files({"a.mib": whole[:500] + b"xx" + whole[500:]}), "a.mib")


def test_frames_of_different_forms_in_one_file_are_refused():
    whole = u16_file(random_frames(11, 1)) + header(2, width=13, height=7, depth=6) + bytes(182)
    with pytest.raises(FormatError, match=r"a\.mib, byte 566: counter depth 6; expected 12 as in the first frame"):
        parse(Files({"a.mib": whole}), "a.mib")


def test_a_truncated_tail_is_left_out_and_noted():
    frames = random_frames(12, 4)
    files = Files({"a.mib": u16_file(frames)[:-5]})
    layout = parse(files, "a.mib")
    assert np.array_equal(pixels(layout, files), frames[:3])
    assert layout.notes == ("a.mib: the last 561 bytes are no whole frame of 566 and were left out",)


def test_a_jump_of_sequence_numbers_inside_a_file_is_noted():
    frames = random_frames(13, 3)
    files = Files({"a.mib": u16_file(frames[:2]) + u16_file(frames[2:], sequence=9)})
    layout = parse(files, "a.mib")
    assert np.array_equal(pixels(layout, files), frames)
    assert layout.notes == ("a.mib: the last frame has sequence number 9; expected 3: frames may be missing between",)


# -- series ----------------------------------------------------------------------------------------------------------


def series(frames, bounds, names, folder="/data"):
    return Files({f"{folder}/{name}": u16_file(frames[a:b], sequence=a + 1)
                  for name, a, b in zip(names, bounds, bounds[1:], strict=False)})


@pytest.mark.parametrize("opened", ["scan2.mib", "scan10.mib", "scan.mib"])
def test_a_series_is_ordered_by_sequence_number_not_by_name(opened):
    frames = random_frames(14, 11)
    files = series(frames, [0, 3, 4, 11], ["scan10.mib", "scan.mib", "scan2.mib"])
    layout = parse(files, f"/data/{opened}")
    assert [f.path for f in layout.parts[0]] == ["/data/scan10.mib", "/data/scan.mib", "/data/scan2.mib"]
    assert [(f.start_idx, f.end_idx, f.size) for f in layout.parts[0]] == [(0, 3, 3 * 566), (3, 4, 566), (4, 11, 7 * 566)]
    assert np.array_equal(pixels(layout, files), frames)


def test_names_are_never_patterns():
    frames = random_frames(15, 4)
    files = series(frames, [0, 2, 4], ["s[1]*?_1.mib", "s[1]*?_2.mib"], folder="/data/[x]")
    files["/data/[x]/s1_3.mib"] = b"not a MIB file"
    assert np.array_equal(pixels(parse(files, "/data/[x]/s[1]*?_1.mib"), files), frames)


def test_extensions_are_compared_without_regard_to_case():
    frames = random_frames(16, 4)
    files = series(frames, [0, 2, 4], ["SCAN1.MIB", "SCAN2.Mib"])
    files["/data/SCAN.HDR"] = b"HDR,\t\r\nScanX:\t2\r\nScanY:\t2\r\nEnd\t"
    for opened in ("SCAN1.MIB", "SCAN.HDR"):
        layout = parse(files, f"/data/{opened}")
        assert layout.nav_shape == (2, 2) and np.array_equal(pixels(layout, files), frames)


def test_other_files_of_the_folder_are_left_alone():
    frames = random_frames(17, 4)
    files = series(frames, [0, 2, 4], ["scan1.mib", "scan2.mib"])
    files |= {"/data/scan1.txt": b"", "/data/scam3.mib": b"", "/data/scan.mib.bak": b"", "/other/scan3.mib": b""}
    assert len(parse(files, "/data/scan1.mib").parts[0]) == 2


def test_disable_glob_opens_one_file():
    frames = random_frames(18, 4)
    files = series(frames, [0, 2, 4], ["scan1.mib", "scan2.mib"])
    files["/data/scan1.hdr"] = b"HDR,\t\r\nScanX:\t1\r\nScanY:\t2\r\n"
    for opened in ("scan1.mib", "scan1.hdr"):
        layout = parse(files, f"/data/{opened}", disable_glob=True)
        assert layout.nav_shape == (2, 1) and np.array_equal(pixels(layout, files), frames[:2])
    assert np.array_equal(pixels(parse(files, "/data/scan2.mib", disable_glob=True), files), frames[2:])


def test_a_file_of_any_name_can_be_opened_alone():
    frames = random_frames(19, 2)
    files = Files({"capture.dat": u16_file(frames), "capture.mib": b"other"})
    assert np.array_equal(pixels(parse(files, "capture.dat"), files), frames)


def test_a_missing_file_of_a_series_leaves_blank_frames():
    frames = random_frames(20, 9)
    files = series(frames, [0, 3, 5, 9], ["s1.mib", "s2.mib", "s3.mib"])
    del files["/data/s2.mib"]
    layout = parse(files, "/data/s1.mib")
    expected = frames.copy()
    expected[3:5] = 0
    assert layout.image_count == 9 and [(f.start_idx, f.end_idx) for f in layout.parts[0]] == [(0, 3), (5, 9)]
    assert np.array_equal(pixels(layout, files), expected)
    assert layout.notes == ("2 frames are in no file and read as blank: sequence numbers 4 to 5",)


def test_a_file_of_a_series_without_a_whole_frame_is_left_out_and_noted():
    frames = random_frames(21, 6)
    files = series(frames, [0, 3, 6], ["s1.mib", "s2.mib"])
    files |= {"/data/s3.mib": u16_file(frames[:1], sequence=7)[:400], "/data/s4.mib": b""}
    layout = parse(files, "/data/s1.mib")
    assert np.array_equal(pixels(layout, files), frames)
    assert len(layout.notes) == 2 and "/data/s4.mib" in layout.notes[0] and "/data/s3.mib" in layout.notes[1]


def test_files_that_overlap_are_refused_by_name():
    frames = random_frames(22, 6)
    files = series(frames, [0, 3, 6], ["s1.mib", "s2.mib"])
    files["/data/s3.mib"] = u16_file(frames[:2], sequence=5)
    with pytest.raises(FormatError, match=r"/data/s3\.mib: the first sequence number is 5; .*/data/s2\.mib.*disable_glob=True"):
        parse(files, "/data/s1.mib")


@pytest.mark.parametrize("kwargs,message", [
    ({"width": 13, "height": 8}, "stored height 8; expected 7"), ({"width": 13, "height": 7, "depth": 6}, "counter depth 6; expected 12"),
    ({"width": 13, "height": 7, "kind": "U08"}, "pixel type U08; expected U16"),
    ({"width": 13, "height": 7, "length": 385}, "header length 385; expected 384"),
])
def test_files_of_another_form_are_refused_by_name(kwargs, message):
    files = Files({"s1.mib": u16_file(random_frames(23, 2)), "s1_RAW.mib": header(3, **kwargs) + bytes(1000)})
    with pytest.raises(FormatError, match=rf"^s1_RAW\.mib: {message} as in s1\.mib.*disable_glob=True"):
        parse(files, "s1.mib")
    assert parse(files, "s1.mib", disable_glob=True).image_count == 2


def test_a_file_that_is_no_mib_among_others_is_refused_by_name():
    files = Files({"s1.mib": u16_file(random_frames(24, 2)), "s2.mib": b"x" * 1000})
    with pytest.raises(FormatError, match=r"^s2\.mib: not the header of a MIB frame.*disable_glob=True"):
        parse(files, "s1.mib")


def test_an_absurd_hole_is_refused():
    frames = random_frames(25, 2)
    files = Files({"s1.mib": u16_file(frames), "s2.mib": u16_file(frames, sequence=2_000_000_000)})
    with pytest.raises(FormatError, match=r"s2\.mib: the first sequence number is 2000000000; expected about 3"):
        parse(files, "s1.mib")


def test_the_first_header_of_each_file_is_read_once_and_pixels_never():
    frames = random_frames(26, 12, 300, 301)
    files = series(frames, [0, 3, 4, 12], ["a1.mib", "a2.mib", "a3.mib"])
    parse(files, "/data/a1.mib")
    heads = [path for path, offset, size in files.reads if offset == 0 and size > 3]
    assert sorted(heads) == ["/data/a1.mib", "/data/a2.mib", "/data/a3.mib"]
    assert sum(size for *_, size in files.reads) < 6 * 4096


def test_many_files_are_warned_of():
    one = u16_file(random_frames(27, 1))
    files = Files({f"s{i}.mib": one.replace(b"MQ1,000001", b"MQ1,%06d" % (i + 1)) for i in range(16385)})
    with pytest.warns(RuntimeWarning, match="16385 files"):
        layout = parse(files, "s0.mib")
    assert layout.image_count == 16385 and layout.notes == ()


# -- .hdr ------------------------------------------------------------------------------------------------------------


def hdr(*lines):
    return b"HDR,\t\r\n" + b"".join(line + b"\r\n" for line in lines) + b"End\t".ljust(50)


ACQUISITION, TRIGGER = b"Frames in Acquisition (Number):\t%d", b"Frames per Trigger (Number):\t%d"


@pytest.mark.parametrize("lines,nav_shape", [
    ([ACQUISITION % 6, TRIGGER % 2, b"ScanX:\t3", b"ScanY:\t2"], (2, 3)),
    ([ACQUISITION % 6, TRIGGER % 3], (2, 3)),
    ([ACQUISITION % 6, TRIGGER % 1], (6, 1)),
    ([ACQUISITION % 6, TRIGGER % 3, b"ScanX:\t0", b"ScanY:\t0"], (2, 3)),
    ([ACQUISITION % 0, TRIGGER % 0], (6,)),
    ([ACQUISITION % 6, TRIGGER % 0], (6,)),
    ([ACQUISITION % 3, TRIGGER % 6], (6,)),
    ([ACQUISITION % 6, b"Frames per Trigger (Number):\tmany"], (6,)),
    ([b"ScanX:\t999999999", b"ScanY:\t999999999"], (6,)),
    ([b"ScanX:\t99999999999999999999", b"ScanY:\t2"], (6,)),
    ([b"Gain:\tSLGM"], None),
    ([b"a line without a tab", b"\xb5 \xff:\t\xb5m", b"", ACQUISITION % 6, TRIGGER % 2], (3, 2)),
])
def test_scan_shape_of_the_hdr(lines, nav_shape):
    files = Files({"a.mib": u16_file(random_frames(28, 6)), "a.hdr": hdr(*lines)})
    assert parse(files, "a.hdr").nav_shape == parse(files, "a.mib").nav_shape == nav_shape


def test_a_scan_of_another_size_than_the_files_is_noted():
    files = Files({"a.mib": u16_file(random_frames(29, 5)), "a.hdr": hdr(b"ScanX:\t3", b"ScanY:\t2")})
    layout = parse(files, "a.hdr")
    assert (layout.nav_shape, layout.image_count) == ((2, 3), 5)
    assert layout.notes == ("the .hdr announces 2 x 3 scan positions; the files hold 5 frames",)


@pytest.mark.parametrize("data,text", [("scan64.mib", "scan.hdr"), ("scan64.mib", "scan64.hdr"), ("scan_64.mib", "scan.hdr")])
def test_the_hdr_is_found_beside_the_data(data, text):
    files = Files({data: u16_file(random_frames(30, 6)), text: hdr(b"ScanX:\t3", b"ScanY:\t2", b"Sensor Bias (V):\t120 V")})
    layout = parse(files, data)
    assert layout.nav_shape == (2, 3) and layout.metadata["sensor_bias_V"] == 120.0


def test_a_hdr_of_another_kind_beside_the_data_is_left_out_and_noted():
    files = Files({"a.mib": u16_file(random_frames(31, 6)), "a.hdr": b"[measurementInfo]\r\n"})
    layout = parse(files, "a.mib")
    assert layout.nav_shape is None
    assert layout.notes == ("the .hdr beside the data was left out: a.hdr: not a Merlin .hdr file, it begins with b'[measure'; expected b'HDR,'",)
    with pytest.raises(FormatError, match=r"^a\.hdr: not a Merlin \.hdr file"):
        parse(files, "a.hdr")


def test_a_hdr_without_data_names_what_was_looked_for():
    with pytest.raises(FormatError, match=r"/data/s\*\.hdr: no \.mib files match /data/s\*\*\.mib"):
        parse(Files({"/data/s*.hdr": hdr()}), "/data/s*.hdr")


def test_hdr_values_become_metadata():
    lines = (b"Time and Date Stamp (day, mnth, yr, hr, min, s):\t02/07/2024 13:46:43", b"Chip ID:\tW559_G11, - , - , - ",
             b"Chip Mode  (SPM, CSM, CM, CSCM):\tSPM", b"Temperature (C):\tBoard Temp -3.50 Deg C", b"Humidity (%):\tunknown",
             b"Medipix Clock (MHz):\t120MHz", b"Active Counters:\tAlternating", b"Gap Fill Mode:\tDistribute",
             b"Readout System:\tMerlin Quad", b"Software Version:\t1.5.0.197", b"Something New:\t1")
    files = Files({"a.mib": u16_file(random_frames(32, 1)), "a.hdr": hdr(*lines)})
    layout = parse(files, "a.mib")
    expected = {"acquisition_time_local": "02/07/2024 13:46:43", "chip_ids": ["W559_G11"], "chip_mode": "SPM", "temperature_C": -3.5,
                "humidity_percent": "unknown", "clock_MHz": 120.0, "active_counters": "Alternating", "gap_fill_mode": "Distribute",
                "readout_system": "Merlin Quad", "software_version": "1.5.0.197"}
    assert {key: layout.metadata[key] for key in expected} == expected
    assert [n for n in layout.notes if "Alternating" in n] and [n for n in layout.notes if "Distribute" in n]


# -- recognition and the data set --------------------------------------------------------------------------------------


@pytest.mark.parametrize("head,path,expected", [
    (GOOD[:4096], "a.mib", True), (GOOD[:4096], "a.dat", True), (b"MPX,0000131457,MQ1,000001", "a.mib", True),
    (hdr(), "a.hdr", True), (hdr(), "a.HDR", True), (hdr(), "a.txt", False), (b"[measurementInfo]\n", "a.hdr", False),
    (b"ENVI\n", "a.hdr", False), (b"HDRADIANCE\n", "a.hdr", False), (b"MQ1", "a.mib", False), (b"", "a.mib", False),
])
def test_sniff(head, path, expected):
    assert sniff(head, path) is expected and MIBDataSet.sniff(head, path) is expected


def written(folder, nav_shape=(3, 5), kind="R12", shape=(7, 20), **kwargs):
    top = synth.KINDS[kind][0]
    frames = np.random.default_rng(33).integers(0, top, (int(np.prod(nav_shape)), *shape), endpoint=True)
    paths = synth.write(folder / "scan.mib", [frames], nav_shape=nav_shape, sig_shape=shape, kind=kind, **kwargs)
    return paths, frames.reshape(*nav_shape, *shape)


def test_the_constructor_touches_no_file():
    ds = MIBDataSet("/nowhere/a.mib", nav_shape=[2, 3], sig_shape=(4, 5), sync_offset=1)
    assert ds.meta is None
    with pytest.raises(FileNotFoundError):
        ds.initialize(None)


def test_deprecated_arguments_warn():
    with pytest.warns(FutureWarning, match="scan_size is deprecated"):
        assert MIBDataSet("a.mib", scan_size=(2, 3))._nav_shape == (2, 3)
    with pytest.warns(FutureWarning, match="tileshape"):
        MIBDataSet("a.mib", (1, 2, 3))
    with pytest.raises(ValueError, match="nav_shape"):
        MIBDataSet("a.mib", scan_size=(2, 3), nav_shape=(2, 3))


def test_a_hdr_gives_the_scan_and_the_user_overrules_it(tmp_path):
    paths, frames = written(tmp_path)
    assert tuple(gpuio.open(paths[0], device="cpu").shape) == (3, 5, 7, 20)
    ds = gpuio.load("mib", path=paths[1], nav_shape=(5, 3), device="cpu")
    assert tuple(ds.shape) == (5, 3, 7, 20)
    assert np.array_equal(ds[:], frames.reshape(5, 3, 7, 20))


@pytest.mark.parametrize("kind,shape,layout", [
    ("U08", (7, 13), "1x1"), ("U16", (7, 13), "2x2G"), ("U32", (7, 13), "Nx1"), ("R1", (5, 192), "1x1"), ("R6", (7, 24), "1x1"),
    ("R12", (7, 20), "1x1"), ("R24", (7, 20), "1x1"), ("R1", (128, 128), "2x2"), ("R6", (48, 48), "2x2"), ("R12", (40, 40), "2x2"),
])
def test_scans_in_files_come_back_exactly(tmp_path, kind, shape, layout):
    paths, frames = written(tmp_path, kind=kind, shape=shape, layout=layout, frames_per_file=4)
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    assert tuple(ds.shape) == frames.shape and ds.notes == ()
    whole = ds[:]
    assert whole.dtype == ds.dtype and np.array_equal(whole, frames)
    flat = frames.reshape(-1, *shape)
    seen = np.zeros(len(flat), int)
    for tile in ds.tiles(dtype="float32"):
        first, depth = tile.tile_slice.origin[0], tile.tile_slice.shape[0]
        assert np.array_equal(tile.data, flat[first:first + depth].astype("float32"))
        seen[first:first + depth] += 1
    assert (seen == 1).all()


def test_partitions_with_a_sync_offset_are_the_scan_moved(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    flat = frames.reshape(15, 7, 20)
    for offset in (2, -4):
        ds = gpuio.load("mib", path=paths[0], sync_offset=offset, device="cpu")
        ds.set_num_cores(4)
        expected = np.zeros_like(flat)
        expected[max(0, -offset):15 - max(0, offset)] = flat[max(0, offset):15 - max(0, -offset)]
        found = np.concatenate([np.asarray(p.get_macrotile(dest_dtype="uint16").data) for p in ds.get_partitions()])
        assert np.array_equal(found, expected)


def test_a_hole_in_a_series_reads_as_zeros(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    os.remove(paths[2])
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    expected = frames.reshape(15, 7, 20).copy()
    expected[4:8] = 0
    assert np.array_equal(ds[:], expected.reshape(3, 5, 7, 20))


def test_gap_option_of_the_data_set(tmp_path):
    paths, frames = written(tmp_path, nav_shape=(2, 3), kind="R6", shape=(48, 48), layout="2x2G")
    ds = gpuio.load("mib", path=paths[0], gap=True, device="cpu")
    rows = np.r_[0:24, 26:50]
    expected = np.zeros((2, 3, 50, 50), "u1")
    expected[:, :, rows[:, None], rows] = frames
    assert np.array_equal(ds[:], expected)


def test_shapes_and_offsets_that_do_not_fit_are_refused(tmp_path):
    paths, _ = written(tmp_path)
    with pytest.raises(ShapeError, match=r"scan\.mib: sig_shape \(7, 21\)"):
        gpuio.load("mib", path=paths[1], sig_shape=(7, 21))
    with pytest.raises(DataSetException, match=r"sync_offset should be in \(-15, 15\)"):
        gpuio.load("mib", path=paths[1], sync_offset=15)


def test_a_data_set_pickles_small_and_reads_again(tmp_path):
    paths, frames = written(tmp_path, frames_per_file=4)
    ds = gpuio.load("mib", path=paths[0], device="cpu")
    packed = pickle.dumps(ds)
    assert len(packed) < 8192
    assert np.array_equal(pickle.loads(packed)[:], frames)
    assert copy.copy(ds).shape == ds.shape


def test_messages_detection_and_cache_key(tmp_path):
    paths, _ = written(tmp_path)
    assert MIBDataSet.get_supported_extensions() == {"mib", "hdr"}
    message = {"type": "MIB", "path": paths[0], "nav_shape": [3, 5], "sync_offset": 0}
    assert MIBDataSet.get_msg_converter()().to_python(message) == {"path": paths[0], "nav_shape": (3, 5), "sync_offset": 0}
    found = gpuio.detect(paths[0])
    assert found["format"] == "mib" and found["parameters"]["nav_shape"] == (3, 5) and found["info"]["image_count"] == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (gpuio.load("mib", path=paths[1], disable_glob=flag).get_cache_key() for flag in (False, True))
    assert one != other and json.loads(json.dumps(one))["path"] == paths[1]
    assert all(isinstance(entry["name"], str) for entry in gpuio.load("mib", path=paths[0]).diagnostics)
