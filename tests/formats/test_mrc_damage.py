"""Damaged MRC files: one clear line, or what is whole of them; never a crash, never made-up pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.errors import DataSetException, FormatError, TruncatedFile, UnsupportedFeature
from tests.formats.items import decoded, random_items
from tests.formats.test_mrc import SHAPE, layout_of, packed, with_fields

PIXELS = random_items(1, SHAPE, "u2")
GOOD = packed(PIXELS, 6, extended=b"e" * 37)
BEYOND = (1 << 31) - 1


@pytest.mark.parametrize(("blob", "error", "message"), [
    (b"", TruncatedFile, "ends after 0 of the 1024 bytes of an MRC header"),
    (with_fields(GOOD, b0=0), FormatError, "no MRC header in either byte order: 0 x 5 x 6 pixels, mode 6"),
    (with_fields(GOOD, b4=-5), FormatError, "7 x -5 x 6 pixels"),
    (with_fields(GOOD, b8=-1), FormatError, "7 x 5 x -1 pixels"),
    (with_fields(GOOD, b12=7), FormatError, "mode 7"),
    (with_fields(GOOD, b0=BEYOND, b4=BEYOND, b8=BEYOND), TruncatedFile, f"0 whole frames of {2 * BEYOND ** 2} bytes"),
    (with_fields(GOOD, b8=BEYOND), TruncatedFile, f"6 whole frames of 70 bytes; the header announces {BEYOND}"),
    (with_fields(GOOD, b92=-1), FormatError, r"extended header \(nsymbt\) has -1 bytes"),
    (with_fields(GOOD, b92=1 << 30), TruncatedFile, r"extended header \(nsymbt\) alone has 1073741824"),
    (with_fields(GOOD, b12=3), UnsupportedFeature, "mode 3, complex integers; expected one of 0, 1, 2, 4, 6, 12, 101"),
    (with_fields(GOOD, b12=16), UnsupportedFeature, "mode 16, colours"),
    (with_fields(GOOD, b64=3, b72=1, b68=2), UnsupportedFeature, r"axes of columns, rows, sections are \(3, 2, 1\)"),
    (with_fields(GOOD, b64=1, b68=1), FormatError, r"axes \(1, 1, 3\)"),
    (with_fields(GOOD, b64=2, b68=1, b12=101), UnsupportedFeature, "of 4 bits a pixel"),
])
def test_bad_files_are_refused_with_one_clear_line(blob, error, message):
    with pytest.raises(error, match=message) as caught:
        layout_of(blob)
    assert str(caught.value).startswith("a.mrc: ")
    assert "\n" not in str(caught.value)


def test_axes_of_zero_are_the_usual_ones():
    blob = with_fields(GOOD, b64=0, b68=0, b72=0)
    np.testing.assert_array_equal(decoded(layout_of(blob), {"a.mrc": blob}), PIXELS)


def test_bytes_behind_the_frames_are_noted():
    assert layout_of(GOOD + b"abc").notes == ("3 bytes follow the frames and are not used",)


def test_every_prefix_is_refused_or_noted_and_shows_whole_frames_only():
    for n in range(len(GOOD)):
        if n < 1024 + 37 + 70:
            with pytest.raises(FormatError, match=r"^a\.mrc: "):
                layout_of(GOOD[:n])
            continue
        layout = layout_of(GOOD[:n])
        assert (layout.image_count, layout.parts[0].image_count) == (6, (n - 1061) // 70)
        assert layout.notes[0].startswith("the file is truncated")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 230), st.binary(min_size=1, max_size=4)), max_size=4))
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
