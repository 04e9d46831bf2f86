"""Lines of a scan from the times of its frames."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.formats._mib_times import frames_per_line, parse_utc
from gpuio.formats.mib import parse
from tests.formats.mib_files import Files, header


def times(n, line, period=1_000_000, pause=2_000, jitter=20):
    frame = np.arange(n)
    noise = np.random.default_rng(1).integers(-jitter, jitter, n, endpoint=True)
    return frame * period + frame // line * pause + noise


@pytest.mark.parametrize("line", [2, 3, 4, 37, 64, 255, 256, 257, 1000])
def test_the_first_pause_is_found_with_few_headers(line):
    recorded, asked = times(5 * line, line), []

    def time_of(frame):
        asked.append(frame)
        return int(recorded[frame])

    assert frames_per_line(time_of, len(recorded)) == line
    assert len(asked) <= 2 * np.log2(line) + 8


def test_two_whole_lines_are_enough_and_less_is_not():
    recorded = times(74, 37)
    assert frames_per_line(lambda k: int(recorded[k]), 74) == 37
    assert frames_per_line(lambda k: int(recorded[k]), 73) is None


@pytest.mark.parametrize("recorded", [
    times(100, 1000), np.zeros(100, int), np.arange(100)[::-1] * 1000, times(100, 50) + (np.arange(100) >= 23) * 5_000_000, times(3, 1),
], ids=["no pause", "no clock", "backwards", "one irregular pause", "three frames"])
def test_no_lines_without_regular_pauses(recorded):
    assert frames_per_line(lambda k: int(recorded[k]), len(recorded)) is None


def test_frames_without_times_have_no_lines():
    recorded = times(20, 4)
    assert frames_per_line(lambda k: int(recorded[k]) if k != 8 else None, 20) is None


@pytest.mark.parametrize("text,ns", [
    ("1970-01-01T00:00:01.000000002Z", 1_000_000_002), ("NaT", None), ("", None), (None, None), ("soon", None)])
def test_parse_utc(text, ns):
    assert parse_utc(text) == ns


def test_lines_are_a_note_unless_the_hdr_tells_the_scan():
    def file(first, last):
        return b"".join(header(k + 1, width=4, height=1, time=f"2024-01-01T00:00:{k + k // 3 * 0.25:012.9f}") + bytes(8)
                        for k in range(first, last))

    files = Files({"a1.mib": file(0, 5), "a2.mib": file(5, 11)})
    layout = parse(files, "a1.mib")
    assert layout.nav_shape is None
    assert layout.notes == ("recording pauses after every 3 frames: nav_shape=(4, 3) may be the scan",)
    files["a.hdr"] = b"HDR,\t\r\nScanX:\t11\r\nScanY:\t1\r\n"
    assert parse(files, "a1.mib").notes == ()
