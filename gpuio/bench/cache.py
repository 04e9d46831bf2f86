"""Files in the page cache, or out of it, and whether they really are: what cannot be confirmed is not called cold.

The system is asked to forget the pages of single files (``posix_fadvise``), which needs no rights and disturbs nobody else;
it forgets only what has been written, so files are written out first. File systems may ignore it, and some
have no such cache, so pages are looked for after each time, at places drawn at random.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gpuio.io import resident_fraction

#: Most that may be left of files that were taken out of the page cache, and least of those that were brought in.
COLD, WARM = 0.05, 0.98
_READ_BYTES = 1 << 20
#: Files whose pages are looked for, and places in each.
_FILES, _PLACES = 16, 32


@dataclass
class PageCache:
    """Prepares files for each run of a candidate and keeps account of what came of it.

    Attributes
    ----------
    cold
        What is wanted: files that have to come from storage.
    seen
        Share of the files found in the page cache each time they had been prepared; None: it could not be told.
    """

    paths: Sequence[str]
    cold: bool
    seen: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in self.paths:
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):         # of a file system that cannot: nothing of ours is left to be written
                os.fsync(descriptor)
            os.close(descriptor)

    def prepare(self) -> None:
        """Bring the files to where they are wanted, then look whether they are there."""
        if self.cold:
            self.drop()
        elif (share := self.resident()) is None or share < 1:
            self.fill()
        self.seen.append(self.resident())

    def drop(self) -> None:
        """Ask the system to forget the pages of the files."""
        if not hasattr(os, "posix_fadvise"):
            return
        for path in self.paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)

    def fill(self) -> None:
        """Read the files."""
        buffer = bytearray(_READ_BYTES)
        for path in self.paths:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def resident(self) -> float | None:
        """Share of the places looked at that are in the page cache."""
        step = max(1, len(self.paths) // _FILES)
        shares = [resident_fraction(path, places=_PLACES) for path in self.paths[::step][:_FILES]]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if known and len(known) == len(shares) else None

    @property
    def worst(self) -> float | None:
        """Of `seen`, the one farthest from what was wanted; None where one could not be told, or nothing ran."""
        known = [share for share in self.seen if share is not None]
        if not known or len(known) < len(self.seen):
            return None
        return max(known) if self.cold else min(known)

    @property
    def confirmed(self) -> bool | None:
        """Whether the files were where they were wanted, every time; None: it cannot be told."""
        worst = self.worst
        if worst is None:
            return None
        return worst <= COLD if self.cold else worst >= WARM

    def __str__(self) -> str:
        wanted = "cold" if self.cold else "warm"
        if self.worst is None:
            return f"{wanted} was asked for; whether the files were in the page cache cannot be told here"
        found = f"{'at most' if self.cold else 'at least'} {self.worst:.0%} of the places looked at were in the page cache"
        return f"{wanted}: {found}" if self.confirmed else f"NOT {wanted}, although asked for: {found}"
