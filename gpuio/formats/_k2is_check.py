"""For ``gpuio check``: blocks that sectors of a K2IS capture lack, from the header of every block."""

from __future__ import annotations

from collections.abc import Iterator

from gpuio.findings import Finding, about_scan, shortened
from gpuio.formats._k2is_blocks import BLOCKS_PER_FRAME, Sector, open_sector
from gpuio.formats._k2is_frames import COUNTS, Recording
from gpuio.layout import Layout
from gpuio.source import Source


def check(source: Source, layout: Layout) -> Iterator[Finding]:
    """Blocks that are missing, repeated or damaged in a sector, and scans larger than the recording.

    Recordings go on before and after the scan, and sectors begin and end at different blocks: neither is a finding.

    Raises
    ------
    FormatError, TruncatedFile
        Looking at every block shows that the sectors do not belong together.
    OSError
        A file cannot be read.
    """
    paths = dict.fromkeys(file.path for part in layout.parts for file in part)
    recording = Recording([open_sector(source, path) for path in paths], every_block=True)
    for sector in recording.sectors:
        yield from shortened(list(_missing(recording, sector)), "more places where blocks are missing")
        for n, severity, what in ((sector.damaged, "error", "have no valid header"), (sector.repeated, "warning", "are repeated")):
            if n:
                yield Finding(severity, sector.path, f"{n} of {sector.n_blocks} blocks {what} and are left out", {"blocks": n})
    for finding in about_scan(layout):
        if finding.severity == "error":
            yield finding


def _missing(recording: Recording, sector: Sector) -> Iterator[Finding]:
    for start, stop in sector.missing(recording.first, recording.stop):
        first, last = ((count - recording.first) // BLOCKS_PER_FRAME for count in (start, stop - 1))
        blocks = f"{stop - start} block{' is' if stop == start + 1 else 's are'} missing"
        frames = f"frame {first} lacks" if first == last else f"frames {first} to {last} lack"
        yield Finding("error", f"{sector.path}, frame {first}", f"{blocks} in this sector: {frames} pixels, which are blank",
                      {"first_frame": first, "last_frame": last, "blocks": stop - start,
                       "block_count": (start + recording.reference) % COUNTS})
