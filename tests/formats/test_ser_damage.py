"""Damaged and foreign series: one clear line, or what is whole of them; never a crash, never made-up pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.errors import DataSetException, FormatError, TruncatedFile
from gpuio.formats.ser import parse
from tests.formats.items import random_items
from tests.formats.mib_files import Files
from tests.formats.test_ser import layout_of, packed, seen

FRAMES = random_items(1, (6, 5, 7), "u2")
GOOD = packed(FRAMES, dims=(2, 3), wide=False)
TABLE = 30 + 2 * (24 + 4 + 8 + 4 + 1)
FIRST = TABLE + 2 * 6 * 4
STRIDE = 50 + 70 + 24


def changed(*changes):
    """GOOD with other bytes: pairs of an offset and what to put there, an int is a u32."""
    blob = bytearray(GOOD)
    for at, new in changes:
        new = struct.pack("<I", new) if isinstance(new, int) else new
        blob[at:at + len(new)] = new
    return bytes(blob)


def test_the_file_is_as_this_module_believes():
    assert len(GOOD) == FIRST + 6 * STRIDE
    assert struct.unpack_from("<6I", GOOD, TABLE) == tuple(FIRST + i * STRIDE for i in range(6))


@pytest.mark.parametrize(("blob", "error", "message"), [
    (b"", FormatError, "no TIA series: begins with ; expected 49 49 97 01"),
    (b"LUCAM-RECORDER", FormatError, "a video of astronomy's SER format"),
    (b"II*\0", FormatError, "begins with 49 49 2a 00"),
    (changed((4, b"\x30\x02")), FormatError, "version 0x0230; expected 0x0210 or 0x0220"),
    (changed((6, 0x4121)), FormatError, "data type 0x4121"),
    (changed((18, 0)), FormatError, "no data were written; 6 elements were planned"),
    (changed((18, 7)), FormatError, "7 elements are written of 6 planned"),
    (changed((14, 1 << 31)), TruncatedFile, "two tables of 2147483648 offsets"),
    (changed((22, TABLE - 1)), FormatError, f"announced at byte {TABLE - 1}, inside of the header"),
    (changed((22, 0xFFFFFFFF)), TruncatedFile, "from byte 4294967295 on"),
    (changed((26, 17)), FormatError, "17 dimensions; expected at most 16"),
    (changed((30 + 24, 0xFFFFFFFF)), FormatError, "description of dimension 0 has 4294967295 bytes"),
    (changed((30 + 24 + 4 + 8, 1 << 20)), FormatError, "unit of dimension 0 has 1048576 bytes"),
    (changed((TABLE, 0)), FormatError, f"bad table of offsets: frame 0 is at byte 0; expected at least {FIRST}"),
    (changed((TABLE, 0xFFFFFFFF)), TruncatedFile, "ends inside of the header of frame 0"),
    (changed((TABLE + 8, FIRST + STRIDE)), FormatError, f"frame 2 is at byte {FIRST + STRIDE}; expected at least {FIRST + STRIDE + 120}"),
    (changed((TABLE + 20, FIRST)), FormatError, "bad table of offsets: frame 5"),
    (changed((FIRST + 40, b"\x0b\0")), FormatError, f"a_1.ser, byte {FIRST}: frame 0 has pixel type 11; expected 1 to 10"),
    (changed((FIRST + 42, 0)), FormatError, "frame 0 has 0 x 5 pixels"),
    (changed((FIRST + 42, 0xFFFFFFFF), (FIRST + 46, 0xFFFFFFFF)), FormatError, "bad table of offsets: frame 1"),
    (changed((FIRST + 3 * STRIDE + 40, b"\x05\0")), FormatError, "frame 3 has 7 x 5 pixels of type 5; expected 7 x 5 of type 2"),
    (changed((FIRST + 5 * STRIDE + 46, 6)), FormatError, "frame 5 has 7 x 6 pixels of type 2; expected 7 x 5"),
])
def test_bad_files_are_refused_with_one_clear_line(blob, error, message):
    with pytest.raises(error, match=message) as caught:
        layout_of(blob)
    assert str(caught.value).startswith("a_1.ser")
    assert "\n" not in str(caught.value)


def test_a_description_of_an_acquisition_names_the_files_with_its_pixels():
    files = Files({"/d/a.emi": b"JK\x00\x02", "/d/a_1.ser": GOOD, "/d/a_2.SER": GOOD, "/d/a_x.ser": GOOD, "/d/ab_1.ser": GOOD})
    with pytest.raises(FormatError, match=r"/d/a\.emi: describes an acquisition, its pixels are in a_1\.ser, a_2\.SER; open one of these"):
        parse(files, "/d/a.emi")
    with pytest.raises(FormatError, match=r"in b_1\.ser, which is not there"):
        parse(Files({"/d/b.emi": b"JK\x00\x02"}), "/d/b.emi")


def test_every_prefix_is_refused_or_noted_and_shows_whole_frames_only():
    for n in range(len(GOOD)):
        if n < FIRST + 120:
            with pytest.raises(FormatError, match=r"^a_1\.ser"):
                layout_of(GOOD[:n])
            continue
        whole = 1 + (n - FIRST - 120) // STRIDE
        layout = layout_of(GOOD[:n])
        assert (layout.image_count, layout.parts[0].image_count) == (6, whole)
        assert [f"of 6 frames {whole} are whole" in note for note in layout.notes] == [True] * (whole < 6)
    np.testing.assert_array_equal(seen(GOOD[:-STRIDE])[:5], FRAMES[:5])
    assert not seen(GOOD[:-STRIDE])[5].any()


def test_a_tag_that_is_not_where_it_should_be_is_left_out():
    for at in (0, 5, len(GOOD) - 3, 0xFFFFFFFF):
        layout = layout_of(changed((TABLE + 24, at)))
        assert "time_utc_first" not in layout.metadata
        assert layout.image_count == 6


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, FIRST + 60), st.binary(min_size=1, max_size=4)), max_size=4))
def test_damaged_headers_give_a_layout_inside_the_file_or_an_error(damage):
    blob = bytearray(GOOD)
    for at, new in damage:
        blob[at:at + len(new)] = new
    try:
        layout = layout_of(bytes(blob))
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        _, offsets = layout.parts[0].locate(np.arange(layout.parts[0].image_count))
        assert offsets.min() >= 0
        assert offsets.max() + layout.sig_size * layout.dtype.itemsize <= len(blob)
