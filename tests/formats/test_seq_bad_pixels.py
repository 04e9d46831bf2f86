"""Bad pixels of StreamPix sequences: maps of the sensor, and the window of it that frames show."""

from __future__ import annotations

import numpy as np
import pytest

import gpuio
from gpuio.corrections import RepairValueError
from gpuio.errors import FormatError, ShapeError, TruncatedFile
from gpuio.formats.seq import parse
from tests.formats.items import assert_same, random_items
from tests.formats.seq_files import FilesWithErrors, corrected, seq, settings, xml

WORKED = ('Rows="20-21"', 'Row="50"', 'Columns="7-9"', 'Column="40"', 'Row="30" Column="33"')


def mask(layout):
    """bool[sig] of the excluded pixels of a layout."""
    bad = np.zeros(layout.sig_size, int)
    for pixels in layout.excluded:
        bad[list(pixels)] = 1
    return bad.reshape(layout.sig_shape).astype(bool)


def parsed(document, place, sig=(32, 32), **kwargs):
    files = FilesWithErrors({"/data/a.seq": seq(random_items(1, (1, *sig), "u1")), "/data/a.Config.Metadata.xml": document,
                             "/data/a.metadata": place})
    return parse(files, "/data/a.seq", **kwargs)


def test_the_worked_example():
    layout = parsed(xml(*WORKED), settings(32, 32, 16, 16))
    expected = np.zeros((32, 32), bool)
    expected[4:6] = expected[:, 24] = expected[14, 17] = True
    assert_same(mask(layout), expected)
    assert expected.sum() == 95 == layout.metadata["bad_pixels"]
    assert layout.notes == ()


@pytest.mark.parametrize(("rows", "columns"), [(7, 13), (13, 7), (1, 5), (5, 1)])
def test_maps_that_are_not_square_lie_the_right_way_round(rows, columns):
    layout = parsed(xml(f'Row="{rows - 1}" Column="0"', f'Row="0" Column="{columns - 1}"', rows=rows, columns=columns),
                    settings(columns, rows), (rows, columns))
    expected = np.zeros((rows, columns), bool)
    expected[rows - 1, 0] = expected[0, columns - 1] = True
    assert_same(mask(layout), expected)


@pytest.mark.parametrize("seed", range(12))
def test_any_window_of_any_map(seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(20, 90, 2).tolist()
    height, width = int(rng.integers(12, rows + 1)), int(rng.integers(12, columns + 1))
    y, x = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, columns - width + 1))
    whole = np.zeros((rows, columns), bool)
    defects = []
    for _ in range(6):
        (top, bottom), (left, right) = np.sort(rng.integers(0, rows, 2)).tolist(), np.sort(rng.integers(0, columns, 2)).tolist()
        bottom, right = min(bottom, top + 1), min(right, left + 1)
        kind = int(rng.integers(0, 5))
        if kind == 0:
            whole[top] = True
            defects.append(f'Row="{top}"')
        elif kind == 1:
            whole[:, left:right + 1] = True
            defects.append(f'Columns="{left}-{right}"')
        elif kind == 2:
            whole[top, left] = True
            defects.append(f'Column=" {left} " Row="{top}"')
        elif kind == 3:
            whole[top:bottom + 1] = True
            defects.append(f'Rows="{top} - {bottom}"')
        else:
            whole[top:bottom + 1, left:right + 1] = True
            defects.append(f'Rows="{top}-{bottom}" Columns="{left}-{right}"')
    layout = parsed(xml(*defects, rows=rows, columns=columns), settings(width, height, x, y), (height, width), allow_unrepairable=True)
    assert_same(mask(layout), whole[y:y + height, x:x + width])


def test_numbers_of_settings_are_divided_by_the_binning():
    for binning in (2, 4):
        layout = parsed(xml('Row="9" Column="13"', rows=32, columns=32, binning=binning),
                        settings(20 * binning, 12 * binning, 5 * binning, 3 * binning, binning), (12, 20))
        assert np.argwhere(mask(layout)).tolist() == [[6, 8]]


@pytest.mark.parametrize(("binning", "expected"), [(0, [0, 3]), (1, [0, 3]), (2, [0, 2]), (4, [0, 4]), (8, [0, 5])])
def test_the_map_of_the_binning_is_used(binning, expected):
    """Maps with one bad pixel each, whose column tells the map; of unbinned ones the larger counts, as for binning 8, which has none."""
    maps = "".join(f'<Any><BadPixelMap Rows="40" Columns="{columns}"{binned}><Defect Row="0" Column="{column}"/></BadPixelMap></Any>'
                   for columns, binned, column in ((30, ' Binning="1"', 1), (31, ' Binning="2"', 2), (32, "", 3), (33, ' Binning="4"', 4),
                                                   (34, ' Binning="3"', 5)))
    place = settings(20 * max(1, binning), 12 * max(1, binning), binning=binning)
    assert np.argwhere(mask(parsed(f"<Root>{maps}</Root>".encode(), place, (12, 20)))).tolist() == [expected]


def test_maps_of_no_fitting_binning_are_noted():
    layout = parsed(xml('Row="3"', binning=2), settings(32, 32))
    assert layout.excluded == ()
    assert layout.notes == ("/data/a.Config.Metadata.xml: none of 1 maps of bad pixels is for a binning of 1; none is used",)


@pytest.mark.parametrize("document", [b"<Root/>", xml(), xml('Row="50"', 'Columns="7-9"')])
def test_no_bad_pixels_are_no_correction(document):
    layout = parsed(document, settings(32, 32, 16, 16))
    assert layout.excluded == () and layout.notes == () and not layout.has_corrections


def test_without_settings_the_map_is_not_used_and_that_is_noted():
    files = FilesWithErrors({"a.seq": seq(random_items(2, (1, 32, 32), "u1")), "a.seq.Config.Metadata.xml": xml(*WORKED)})
    layout = parse(files, "a.seq")
    assert layout.excluded == ()
    assert layout.notes == ("bad pixels in a.seq.Config.Metadata.xml are not used: there is no file *.metadata, which tells where the "
                            "frame lies on the sensor",)


def test_settings_without_a_map_are_not_looked_at():
    files = FilesWithErrors({"a.seq": seq(random_items(3, (1, 32, 32), "u1")), "a.metadata": b""})
    assert parse(files, "a.seq").notes == ()


def test_entries_of_the_acquisition_are_metadata():
    extra = '<FileInfo><ImageSizeX Value="32"/><DarkRef Value="yes"/><Other/></FileInfo><Elsewhere Value="1"/>'
    assert parsed(xml(extra=extra), settings(32, 32)).metadata["file_info"] == {"ImageSizeX": "32", "DarkRef": "yes"}


# -- bad pixels that cannot be repaired --------------------------------------------------------------------------------


def test_two_bad_rows_can_be_repaired_and_three_cannot():
    assert mask(parsed(xml('Rows="10-11"'), settings(32, 32))).sum() == 64
    with pytest.raises(RepairValueError) as caught:
        parsed(xml('Rows="10-12"'), settings(32, 32))
    assert str(caught.value) == (
        "/data/a.Config.Metadata.xml: bad pixels without a good neighbour to be repaired from: 32, at (y, x) (11, 0), (11, 1), (11, 2), "
        "(11, 3), (11, 4) and others. Pass allow_unrepairable=True to leave them as they are")


@pytest.mark.parametrize(("defects", "alone"), [
    (('Rows="0-1"',), 32), (('Rows="30-31"',), 32), (('Columns="0-1"',), 32), (('Row="0"',), 0), (('Columns="31"',), 0),
    (('Rows="4-6" Columns="8-10"',), 1), (('Rows="4-6" Columns="8-9"',), 0), (('Rows="0-31"',), 1024),
    (('Rows="0-1" Columns="0-1"',), 1), (('Rows="30-31" Columns="30-31"', 'Rows="0-1" Columns="30-31"'), 2),
])
def test_bad_pixels_without_a_good_neighbour_are_counted(defects, alone):
    if alone:
        with pytest.raises(RepairValueError, match=f"bad pixels without a good neighbour to be repaired from: {alone}, at"):
            parsed(xml(*defects), settings(32, 32))
    layout = parsed(xml(*defects), settings(32, 32), allow_unrepairable=True)
    assert len(layout.notes) == (alone > 0)
    assert all(f"repaired from: {alone}, at" in note and note.endswith("they are left as they are") for note in layout.notes)


def test_what_cannot_be_repaired_may_stay(tmp_path):
    frames = random_items(4, (6, 9, 7), "u2")
    (tmp_path / "a.seq").write_bytes(seq(frames))
    (tmp_path / "a.seq.metadata").write_bytes(settings(7, 9))
    (tmp_path / "a.seq.Config.Metadata.xml").write_bytes(xml('Rows="3-5"', rows=9, columns=7))
    bad = np.zeros((9, 7), bool)
    bad[3:6] = True
    with pytest.raises(RepairValueError, match="allow_unrepairable=True"):
        gpuio.load("seq", path=tmp_path / "a.seq")
    ds = gpuio.load("seq", path=tmp_path / "a.seq", nav_shape=(2, 3), allow_unrepairable=True, device="cpu")
    assert_same(ds[:], corrected(frames, bad=bad).reshape(2, 3, 9, 7))


# -- what is damaged ---------------------------------------------------------------------------------------------------

BOMB = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><Root>&c;</Root>"""
OUTSIDE = b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><Root><BadPixelMap Rows="9" Columns="9"/>&x;</Root>'


@pytest.mark.parametrize(("document", "message"), [
    (BOMB, "has a document type or entities"), (OUTSIDE, "has a document type or entities"),
    (b"<!DOCTYPE html><Root/>", "has a document type or entities"),
    (b"", "not a well-formed XML file"), (b"<Root>", "not a well-formed XML file"), (b"\xff\xfe\x00", "not a well-formed XML file"),
    (xml('Row="64"'), r"<Defect Row='64'>; expected one of Row and Rows with a number or a range such as 3-5, below 64"),
    (xml('Column="64"', rows=70), "<Defect Column='64'>; expected one of Column and Columns .* below 64"),
    (xml('Rows="5-3"'), "<Defect Rows='5-3'>"), (xml('Rows="60-64"'), "<Defect Rows='60-64'>"), (xml('Row="-1"'), "<Defect Row='-1'>"),
    (xml('Row=""'), "<Defect Row=''>"), (xml('Row="1.5"'), "<Defect Row='1.5'>"), (xml('Row="\u0661"'), "<Defect Row="),
    (xml('Row="9999999999"'), "<Defect Row='9999999999'>"), (xml('Rows="1-2-3"'), "<Defect Rows='1-2-3'>"),
    (xml('Row="1" Rows="2"'), "<Defect Row='1' Rows='2'>"), (xml(""), "<Defect > names no row and no column"),
    (xml('Line="4"'), "<Defect Line='4'> names no row and no column"),
    (xml(rows=0), "<BadPixelMap Rows='0' Columns='64'> has Rows '0'; expected 1 to 1048576"),
    (xml(columns="x"), "has Columns 'x'; expected 1 to"), (xml(columns=10**9), "has Columns '1000000000'"),
    (b"<Root><BadPixelMap Rows='5'/></Root>", "has Columns ''"), (xml(binning="two"), "has Binning 'two'; expected a number"),
])
def test_documents_that_make_no_sense_are_refused_with_one_clear_line(document, message):
    with pytest.raises(FormatError, match=message) as caught:
        parsed(document, settings(32, 32))
    assert str(caught.value).startswith("/data/a.Config.Metadata.xml: ")
    assert "\n" not in str(caught.value)
    assert parsed(document, settings(32, 32), enable_corrections=False).notes == ()


def test_huge_documents_are_refused():
    with pytest.raises(FormatError, match="more than 1048576 bytes"):
        parsed(xml(extra=" " * (1 << 20)), settings(32, 32))


@pytest.mark.parametrize(("place", "error", "message"), [
    (settings(32, 32)[:309], TruncatedFile, "309 bytes; expected at least 310 of settings"), (b"", TruncatedFile, "0 bytes"),
    (settings(0, 32), FormatError, r"settings make no sense: a frame of 0 x 32 pixels at \(0, 0\) of the sensor, binning 1"),
    (settings(32, -1), FormatError, "32 x -1"), (settings(32, 32, -1), FormatError, r"\(-1, 0\)"),
    (settings(32, 32, 0, 1 << 21), FormatError, r"\(0, 2097152\)"),
    (settings(1 << 30, 32), FormatError, "1073741824 x 32"), (settings(32, 32, binning=-1), FormatError, "binning -1"),
    (settings(32, 32, binning=65), FormatError, "binning 65"),
    (settings(32, 31), ShapeError, "said to have 32 x 31 pixels of the sensor with a binning of 1; frames have 32 x 32"),
    (settings(32, 32, binning=2), ShapeError, "binning of 2; frames have 32 x 32"),
])
def test_settings_that_make_no_sense_are_refused_with_one_clear_line(place, error, message):
    with pytest.raises(error, match=message) as caught:
        parsed(xml(*WORKED), place)
    assert str(caught.value).startswith("/data/a.metadata: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("x", "y"), [(33, 0), (0, 33), (1 << 20, 0)])
def test_a_window_that_reaches_out_of_the_map_is_refused(x, y):
    with pytest.raises(ShapeError, match=rf"Rows='64' Columns='64'> is smaller than the frame's window, 32 x 32 pixels at \({x}, {y}\)"):
        parsed(xml(*WORKED), settings(32, 32, x, y))
