"""Damaged and foreign sequences and references: one clear line, or what is whole of them; never a crash, never made-up pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuio
from gpuio.errors import DataSetException, FormatError, ShapeError, TruncatedFile, UnsupportedFeature
from gpuio.formats.seq import parse
from tests.formats.items import assert_same, decoded, random_items
from tests.formats.seq_files import FilesWithErrors, mrc, seq

SIG = (7, 11)
GOOD = seq(random_items(1, (3, *SIG), "u2"), 40)


def changed(offset, value, form="<I"):
    blob = bytearray(GOOD)
    struct.pack_into(form, blob, offset, value)
    return bytes(blob)


@pytest.mark.parametrize(("content", "error", "message"), [
    (b"", TruncatedFile, "not a SEQ file, or cut short: 0 bytes; expected a header of 632"),
    (GOOD[:3], TruncatedFile, "3 bytes"), (GOOD[:631], TruncatedFile, "631 bytes; expected a header of 632"),
    (b"FFF\0" + GOOD[4:], FormatError, "not a SEQ file, it begins with 46 46 46 00; expected ed fe 00 00"),
    (b"\xed\xff", FormatError, "ed ff"),
    (changed(556, 12), FormatError, "bit depth 12; expected 8, 16, 32"), (changed(556, 0), FormatError, "bit depth 0"),
    (changed(568, 101), UnsupportedFeature, r"image format 101, compression 0; expected 100 \(monochrome\) and 0 \(none\)"),
    (changed(620, 1), UnsupportedFeature, "compression 1"), (changed(548, 0), FormatError, "frames of 0 x 7 pixels"),
    (changed(552, 0), FormatError, "frames of 11 x 0 pixels"),
    (changed(580, 0), FormatError, "true image size 0 bytes; expected at least 154 for 11 x 7 pixels of 16 bit"),
    (changed(580, 153), FormatError, "true image size 153 bytes"), (changed(580, 155), FormatError, "expected whole pixels of 2 bytes"),
    (changed(548, 0xFFFFFFFF), FormatError, "for 4294967295 x 7 pixels of 16 bit"),
    (changed(580, 0xFFFFFFFE), TruncatedFile, "holds 8774 bytes; expected at least 4294975486 for one frame of 11 x 7 pixels of 16 bit"),
    (GOOD[:8192], TruncatedFile, "holds 8192 bytes; expected at least 8386 for one frame"),
    (GOOD[:8385], TruncatedFile, "holds 8385 bytes"),
])
def test_bad_files_are_refused_with_one_clear_line(content, error, message):
    with pytest.raises(error, match=message) as caught:
        parse(FilesWithErrors({"/data/bad.seq": content}), "/data/bad.seq")
    assert str(caught.value).startswith("/data/bad.seq: ")
    assert "\n" not in str(caught.value)


def test_every_prefix_is_refused_or_has_its_whole_frames():
    frames = random_items(2, (3, *SIG), "u2")
    whole = seq(frames, 40, version=3)
    for n in [*range(700), *range(1000, len(whole) + 1)]:
        files = FilesWithErrors({"a.seq": whole[:n]})
        if n < 1024 + 194:
            with pytest.raises(TruncatedFile, match=r"^a\.seq: "):
                parse(files, "a.seq")
        else:
            layout = parse(files, "a.seq")
            assert_same(decoded(layout, files), frames[:(n - 1024) // 194])
            assert len(layout.notes) == ((n - 1024) % 194 > 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 28, *range(548, 632, 4)]), st.binary(min_size=4, max_size=4) | st.sampled_from(
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\x20\0\0\0", b"\0\0\x01\0"])), max_size=4))
def test_damaged_headers_give_a_layout_inside_the_file_or_an_error(damage):
    whole = bytearray(GOOD)
    for at, new in damage:
        whole[at:at + 4] = new
    files = FilesWithErrors({"a.seq": bytes(whole)})
    try:
        layout = parse(files, "a.seq")
    except DataSetException as problem:
        assert "\n" not in str(problem)
    else:
        (file,) = layout.parts[0]
        assert 0 < file.file_header + file.num_frames * file.stride <= len(whole)


IMAGE = np.random.default_rng(3).normal(size=SIG).astype("f4")


@pytest.mark.parametrize(("reference", "error", "message"), [
    (b"", TruncatedFile, "0 of the 1024 bytes of an MRC header"), (mrc(IMAGE)[:1023], TruncatedFile, "1023 of the 1024"),
    (b"\xff" * 2000, FormatError, "no MRC header"),
    (mrc(IMAGE)[:-1], TruncatedFile, "holds 1331 bytes; expected 1332 for 11 x 7 pixels of float32"),
    (mrc(IMAGE.T), ShapeError, r"the reference has shape \(1, 11, 7\); expected \(1, 7, 11\), one image of the shape of frames"),
    (mrc(IMAGE, shape=(2, *SIG)), ShapeError, r"shape \(2, 7, 11\)"), (mrc(IMAGE, shape=(1, 1 << 30, 1 << 30)), ShapeError, "1073741824"),
    (mrc(IMAGE, 0), UnsupportedFeature, "MRC mode 0; expected 1, 2, 6, 12 for a reference"), (mrc(IMAGE, 4), UnsupportedFeature, "mode 4"),
    (mrc(IMAGE, extended=1 << 30)[:5000], TruncatedFile, "extended header"),
])
@pytest.mark.parametrize("which", ["dark", "gain"])
def test_references_that_cannot_be_used_are_refused_with_one_clear_line(reference, error, message, which):
    files = FilesWithErrors({"/data/a.seq": GOOD, f"/data/a.{which}.mrc": reference})
    with pytest.raises(error, match=message) as caught:
        parse(files, "/data/a.seq")
    assert str(caught.value).startswith(f"/data/a.{which}.mrc: ")
    assert "\n" not in str(caught.value)
    assert parse(files, "/data/a.seq", enable_corrections=False).dark is None


def test_a_folder_in_place_of_a_reference_is_an_error(tmp_path):
    (tmp_path / "a.seq").write_bytes(GOOD)
    (tmp_path / "a.dark.mrc").mkdir()
    with pytest.raises((DataSetException, OSError), match=r"a\.dark\.mrc"):
        gpuio.open(tmp_path / "a.seq")


def test_a_reference_that_is_lost_after_opening_is_an_error(tmp_path):
    (tmp_path / "a.seq").write_bytes(GOOD)
    (tmp_path / "a.dark.mrc").write_bytes(mrc(IMAGE))
    ds = gpuio.open(tmp_path / "a.seq", device="cpu")
    (tmp_path / "a.dark.mrc").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.dark\.mrc"):
        ds[0]


def test_a_file_that_is_cut_short_after_opening_is_an_error(tmp_path):
    (tmp_path / "a.seq").write_bytes(GOOD)
    ds = gpuio.open(tmp_path / "a.seq", device="cpu")
    with open(tmp_path / "a.seq", "r+b") as file:
        file.truncate(len(GOOD) - 100)
    with pytest.raises(OSError, match=r"a\.seq"):
        ds[:]


def test_a_missing_file_is_an_error_of_the_operating_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.seq"):
        gpuio.load("seq", path=tmp_path / "a.seq")
