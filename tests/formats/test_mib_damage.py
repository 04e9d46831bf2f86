"""Damaged and foreign files: one clear line, or what is whole of them; never a crash, never made-up pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from gpuio.formats.mib import parse
from tests.formats.mib_files import Files, header, pixels, random_frames, u16_file

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
    (changed(b"U16,   1x1", b"R64,   Nx1"), UnsupportedFeature, "12-bit RAW frames, layout 'Nx1' of 1 chips, stored 256 x 256"),
    (changed(b"U16,   1x1", b"R64,   2x2"), UnsupportedFeature, "12-bit RAW frames, layout '2x2' of 1 chips"),
    (changed(b"0256,0256,U16", b"0254,0256,R64"), FormatError, "stored width 254; expected a multiple of 4 for 12-bit RAW frames"),
    (changed(b"U16,   1x1", b"R64,1x1\nx"), UnsupportedFeature, r"layout '1x1\\nx'"),
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
    with pytest.raises(UnsupportedFeature, match="gap=True is for RAW frames of 2x2 chips; found 'U16' frames, layout '1x1'"):
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
