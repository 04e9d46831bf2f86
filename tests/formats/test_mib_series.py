"""Which files belong to a MIB data set, in which order, and what the .hdr says of them."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.errors import FormatError
from gpuio.formats.mib import parse
from tests.formats.mib_files import Files, header, pixels, random_frames, u16_file


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
    ({"width": 13, "height": 7, "kind": "U08"}, "pixel type 'U08'; expected 'U16'"),
    ({"width": 13, "height": 7, "length": 385}, "header length 385; expected 384"),
])
def test_files_of_another_form_are_refused_by_name(kwargs, message):
    files = Files({"s1.mib": u16_file(random_frames(23, 2)), "s2.mib": header(3, **kwargs) + bytes(1000)})
    with pytest.raises(FormatError, match=rf"^s2\.mib: {message} as in s1\.mib.*disable_glob=True"):
        parse(files, "s1.mib")
    assert parse(files, "s1.mib", disable_glob=True).image_count == 2


@pytest.mark.parametrize("opened", ["Rows_256.mib", "Rows_256.hdr", "Rows_255.mib", "Rows_256RAW.mib"])
def test_files_whose_names_differ_by_more_than_numbers_are_of_another_series(opened):
    """The readout writes both of one acquisition, and both begin with number 1."""
    frames, others = random_frames(25, 4), random_frames(26, 3)
    files = Files({"Rows_255.mib": u16_file(frames[:3]), "Rows_256.mib": u16_file(frames[3:], sequence=4),
                   "Rows_256RAW.mib": u16_file(others), "Rows_256.hdr": b"HDR,\t\r\nScanX:\t2\r\nScanY:\t2\r\nEnd\t"})
    expected = {"Rows_256.hdr": frames[3:], "Rows_256RAW.mib": others}.get(opened, frames)
    assert np.array_equal(pixels(parse(files, opened), files), expected)


def test_an_hdr_leads_to_files_of_any_names_where_none_has_but_a_number():
    frames = random_frames(27, 4)
    files = series(frames, [0, 2, 4], ["scan_part1.mib", "scan_part2.mib"])
    files["/data/scan.hdr"] = b"HDR,\t\r\nEnd\t"
    assert np.array_equal(pixels(parse(files, "/data/scan.hdr"), files), frames)


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
    assert sum(size for *_, size in files.reads) < 8 * 4096


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
    assert layout.notes == ("the .hdr beside the data was left out: "
                            "a.hdr: not a Merlin .hdr file, it begins with b'[measure'; expected b'HDR,'",)
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
