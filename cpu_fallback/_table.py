"""How the loop walks through a placement table: rows joined, bands chosen. The pixels stay the same.

Measured, GB/s of packed u16 to float32 with dark and gain, several frames a call: on Intel Cascade Lake (L2 of 1 MiB, slow
L3) frames of 1024 x 1024 go from 2.0 to 2.8 in bands of 4 to 32 rows. On AMD EPYC (L2 of 1 MiB, L3 of 32 MiB) the same
frames fall from 6.4 to 5.4, and only those whose maps leave L3 gain: 4096 x 4096 goes from 4.0 to 5.1 in bands of 65536
pixels. Stored rows that hold runs of several entries, as those of a 2x2 quad or a folded frame, are read at 7 (12 bit) and
6 (FRMS6) entry by entry, at 13 and 14 row by row in the order of the file: only so does the processor read ahead. K2IS blocks, 16 side by
side, go from 7.2 to 10.3 (half a sector) and from 4.8 to 6.4 (whole frames) when only 4 are walked side by side (AMD; no maps).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuio.engine import cpu_vendor
from gpuio.layout import PART, PIXELS, POS, REP_POS, REP_SRC, REPEATS, REVERSED, ROW_POS, ROW_SRC, ROWS, SKIPPED, SRC, Encoding

#: Bytes to fetch ahead where runs are short: the processor's own reading ahead loses their track (measured: FRMS6 +30 % from mapped files).
AHEAD = 2048
#: The same for runs of a single step, a short row each in blocks that lie far apart (measured: K2IS 5 to 10 %).
AHEAD_STEP = 384
#: Stored bytes that an entry should take at a time where several take pixels from the same stored rows: less costs more than it gains.
STRIPE_BYTES = 256
#: Repeats of a single step that are walked side by side: each is a stream of bytes for the processor to prefetch.
STREAMS = 4
_FAST_L3 = cpu_vendor() == "AuthenticAMD"
#: Single steps are stored past the cache where a frame in the tile is larger than this and L3 is slow: else each line is fetched before
#: it is written, too late. (Measured on Intel Cascade Lake: K2IS to float32 goes from 1.2 to 2.4 GB/s, 0.9 to 1.5 with what reads the
#: tile. Longer runs gain nothing, and lose where tiles fit the cache. Not measured on AMD.)
CACHED_FRAME = 1 << 62 if _FAST_L3 else 4 << 20
#: Maps that take more than this are walked in bands: half of L3 where it is fast, else of L2.
CACHED_MAPS = 16 << 20 if _FAST_L3 else 512 << 10
#: Dark and gain together are kept in float64, in which they are applied, up to this size: more of the cache costs less there than
#: converting them anew for each frame (measured on AMD EPYC: 256 x 256 pixels +20 %, 512 x 512 +10 %, 1024 x 1024 would lose a quarter).
WIDE_MAPS = 4 << 20 if _FAST_L3 else CACHED_MAPS
#: Pixels of a band where maps are large: both maps in float32 take 8 bytes each of these.
BAND_PIXELS = 65536 if _FAST_L3 else 16384


@dataclass(frozen=True, slots=True)
class Walk:
    """What the loop is given.

    Attributes
    ----------
    table : int64[entries, 12]
    height : int
        Rows of the highest entry.
    band : int
        Rows to decode of all frames before going on to the next ones.
    stripe : int
        Rows to decode of all entries before going on to the next ones of the same frame.
    ahead : int
        Bytes to fetch ahead of each step.
    known_pixels, known_repeats : int
        Length and repeats of all runs where it pays to compile them in, else 0.
    halves : bool
        Whether there are rows of some steps and a half.
    past_cache : bool
        Whether frames larger than `CACHED_FRAME` are better stored past the cache.
    """

    table: np.ndarray
    height: int
    band: int
    stripe: int
    ahead: int
    known_pixels: int
    known_repeats: int
    halves: bool
    past_cache: bool


def plan_walk(table: np.ndarray, encoding: Encoding, step: int, map_bytes: int) -> Walk:
    """Choose the walk for a checked table.

    Parameters
    ----------
    step
        Pixels that the encoding decodes at a time.
    map_bytes
        Size of dark and gain maps together.
    """
    table = _few_streams(join_rows(table, encoding), step)
    large_maps = map_bytes > CACHED_MAPS
    if large_maps:
        table = _split_long_runs(table, encoding)
    height = int(table[:, ROWS].max(initial=1))
    band = height
    if large_maps and len(table):
        band = max(1, BAND_PIXELS // int((table[:, PIXELS] * table[:, REPEATS]).max()))
    stripe, ahead = band, 0
    if _shares_rows(table):
        table = table[np.lexsort((table[:, SRC], table[:, PART]))]      # front to back
        run_bytes = table[:, PIXELS] * table[:, REPEATS] // encoding.group_pixels * encoding.group_bytes
        stripe = max(1, STRIPE_BYTES // max(1, int(run_bytes.max())))
        ahead = AHEAD
    repeats = int(table[0, REPEATS]) if len(table) else 0
    one_step = bool(repeats > 1 and ((table[:, PIXELS] == step) & (table[:, SKIPPED] == 0) & (table[:, REPEATS] == repeats)).all())
    known = (step, repeats) if one_step else (0, 0)
    halves = (2 * (table[:, PIXELS] % step) == step) & (table[:, PIXELS] > 2 * step) & (table[:, SKIPPED] == 0) & (table[:, ROWS] > 1)
    past_cache = one_step and not (table[:, [POS, ROW_POS, REP_POS]] % step).any() and not table[:, REVERSED].any()
    return Walk(np.ascontiguousarray(table), height, min(band, height), min(stripe, height), AHEAD_STEP if one_step else ahead, *known,
                bool(halves.any()), bool(past_cache))


def join_rows(table: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Rows that follow each other without a gap, stored and placed, become one run."""
    table = table.copy()
    pixels, way = table[:, PIXELS], 1 - 2 * table[:, REVERSED]
    run_bytes = pixels // encoding.group_pixels * encoding.group_bytes
    joined = ((table[:, REPEATS] == 1) & (table[:, SKIPPED] == 0) & (pixels % encoding.group_pixels == 0)
              & (table[:, ROW_SRC] == run_bytes) & (table[:, ROW_POS] == way * pixels))
    table[joined, PIXELS] *= table[joined, ROWS]
    table[joined, ROWS] = 1
    return table


def _few_streams(table: np.ndarray, step: int) -> np.ndarray:
    """Repeats of a single step in groups of `STREAMS`."""
    many = ((table[:, PIXELS] == step) & (table[:, SKIPPED] == 0) & (table[:, REPEATS] > STREAMS) & (table[:, REPEATS] % STREAMS == 0))
    groups = np.where(many, table[:, REPEATS] // STREAMS, 1)
    within = STREAMS * (np.arange(int(groups.sum())) - np.repeat(np.cumsum(groups) - groups, groups))
    table, many = np.repeat(table, groups, axis=0), np.repeat(many, groups)
    table[:, SRC] += within * table[:, REP_SRC]
    table[:, POS] += within * table[:, REP_POS]
    table[many, REPEATS] = STREAMS
    return table


def _split_long_runs(table: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Long single runs become rows of `BAND_PIXELS` and a rest."""
    long = ((table[:, REPEATS] == 1) & (table[:, ROWS] == 1) & (table[:, SKIPPED] == 0) & (table[:, PIXELS] > BAND_PIXELS)
            & (BAND_PIXELS % encoding.group_pixels == 0))
    table, rest = table.copy(), table[long]
    way = 1 - 2 * rest[:, REVERSED]
    rows = rest[:, PIXELS] // BAND_PIXELS
    band_bytes = BAND_PIXELS // encoding.group_pixels * encoding.group_bytes
    table[long, ROWS], table[long, PIXELS] = rows, BAND_PIXELS
    table[long, ROW_SRC], table[long, ROW_POS] = band_bytes, way * BAND_PIXELS
    rest[:, SRC] += rows * band_bytes
    rest[:, POS] += way * rows * BAND_PIXELS
    rest[:, PIXELS] %= BAND_PIXELS
    return np.concatenate((table, rest[rest[:, PIXELS] > 0]))


def _shares_rows(table: np.ndarray) -> bool:
    """Whether two entries take pixels from the same stored rows."""
    if len(table) < 2:
        return False
    order = np.lexsort((table[:, SRC], table[:, ROW_SRC], table[:, PART]))
    one, other = table[order[:-1]], table[order[1:]]
    return bool(((one[:, PART] == other[:, PART]) & (one[:, ROW_SRC] == other[:, ROW_SRC]) & (one[:, ROWS] > 1)
                 & (other[:, SRC] - one[:, SRC] < np.abs(one[:, ROW_SRC]))).any())
