"""Damaged and foreign DM files: one clear line; never a crash, never made-up pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuio.errors import DataSetException, FormatError, GpuioError, UnsupportedFeature
from gpuio.formats.dm import parse
from tests.formats.dm_files import Dm
from tests.formats.items import decoded, random_items
from tests.formats.mib_files import Files

DM = Dm()
SCAN = random_items(1, (2, 3, 5, 7), "u2")
GOOD = {version: Dm(version).file(Dm(version).thumbnail(), Dm(version).image(SCAN, tags=[Dm(version).swapped(True)]), previews=[0])
        for version in (3, 4)}


def layout_of(blob):
    return parse(Files({"a.dm4": blob}), "a.dm4")


def refused(blob, error, message):
    with pytest.raises(error, match=message) as caught:
        layout_of(blob)
    assert str(caught.value).startswith("a.dm4")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("blob", "error", "message"), [
    (b"", FormatError, "the file ends inside the version"),
    (b"\0\0\0\2" + bytes(100), FormatError, "not a DigitalMicrograph 3 or 4 file: its version is 2"),
    (b"\0\0\0\5" + bytes(100), FormatError, "its version is 5"),
    (DM.file(), FormatError, "holds tags, but no image data"),
    (DM.file(DM.group("", DM.group("ImageTags"))), FormatError, "holds tags, but no image data"),
    (DM.file(DM.thumbnail(), previews=[0]), FormatError, "holds tags, but no image data"),
    (DM.file(DM.image(SCAN, dims=(7, 5, 3))), FormatError, r"image 0 has 420 bytes of pixels; expected 210 for shape \(3, 5, 7\)"),
    (DM.file(DM.image(SCAN, dims=(1 << 31, 1 << 31, 1 << 31))), FormatError, "has 420 bytes of pixels; expected 198070406285"),
    (DM.file(DM.image(SCAN, dims=(7, 5, 0, 2))), FormatError, r"image 0 has no array of pixels .* dimensions \[2, 0, 5, 7\]"),
    (DM.file(DM.image(SCAN, dims=())), FormatError, r"image 0 has no array of pixels with a type and positive dimensions"),
    (DM.file(DM.image(SCAN, data_type=2)), FormatError, "has 420 bytes of pixels; expected 840"),
    (DM.file(DM.image(SCAN, dims=(210,))), UnsupportedFeature, r"image 0 is a single spectrum, of shape \(210,\)"),
    (DM.file(DM.image(SCAN, dims=(7, 5, 3, 2, 1))), UnsupportedFeature, "image 0 is an image of 5 axes"),
    *((DM.file(DM.image(SCAN, data_type=kind)), UnsupportedFeature, f"image 0 has DataType {kind}, {what}") for kind, what in (
        (0, "which nobody has described"), (4, "which nobody"), (5, "packed complex"), (8, "colours"), (23, "colours"),
        (27, "packed complex"), (28, "packed complex"), (1 << 30, "which nobody"))),
])
def test_bad_files_are_refused_with_one_clear_line(blob, error, message):
    refused(blob, error, message)


def test_pixels_that_are_no_array_are_refused():
    entry = DM.group("", DM.group("ImageData", DM.u4("Data", 7), DM.u4("DataType", 10), DM.group("Dimensions", DM.u4("", 1))))
    refused(DM.file(entry), FormatError, "image 0 has no array of pixels")


def test_a_capture_description_is_refused_with_a_hint():
    with pytest.raises(FormatError, match=r"no image data; the \.gtg of K2IS is opened with its \.bin files"):
        parse(Files({"a_.gtg": DM.file()}), "a_.gtg")


@pytest.mark.parametrize("version", [3, 4])
def test_every_prefix_is_refused_or_whole(version):
    blob = GOOD[version]
    for n in range(len(blob)):
        if n < len(blob) - 8:       # the last eight bytes are zero and mean nothing
            refused(blob[:n], FormatError, "damaged tags|the file ends")
        else:
            np.testing.assert_array_equal(decoded(layout_of(blob[:n]), {"a.dm4": blob[:n]}).reshape(SCAN.shape), SCAN)


@settings(max_examples=300, deadline=None)
@given(version=st.sampled_from([3, 4]), changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6))
def test_changed_bytes_are_refused_or_give_a_layout_within_the_file(version, changes):
    blob = bytearray(GOOD[version])
    for place, new in changes:
        blob[int(place * len(blob))] = new
    try:
        layout = layout_of(bytes(blob))
    except (DataSetException, GpuioError):
        return
    n_bytes = layout.image_count * layout.sig_size * layout.dtype.itemsize
    first = layout.strided.offset if layout.strided is not None else layout.parts[0][0].file_header
    assert 0 < first <= first + n_bytes <= len(blob)
