"""What every engine has to decode, as one table, with the truth beside it.

A **row** of `ROWS` is an encoding: its name, dtypes, the size of a group, and an independent NumPy packer, written from
the format's description and never from a decoder. A **layout** places pixels: rows with gaps, rotated quads, folded
halves, cut groups, several parts ... Every row meets every layout. Nothing here knows an engine::

    for case in cases():
        dark, gain = maps(case, "both f4")
        expected = reference(case, "float32", dark, gain, before)

Storage and placement are kept apart, as in a file: first segments of storage are filled with random and extreme pixels
and packed, then pieces say where pixels go, and the truth is looked up by index.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from gpuio.layout import Encoding, Piece, placement_table

#: dtypes to decode into that every engine does in its loop; "native" is the encoding's own.
DTYPES = ("native", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
#: dtypes that take the way through `gpuio.conversion`. Not every array module has the last two.
EXOTIC_DTYPES = ("?", "f2", "c8", "c16", ">u2", ">f4")
#: Corrections: dtypes of dark and gain.
MAPS: dict[str, tuple[str | None, str | None]] = {
    "none": (None, None), "dark f4": ("f4", None), "gain f4": (None, "f4"), "both f4": ("f4", "f4"),
    "dark f8": ("f8", None), "gain f8": (None, "f8"), "both f8": ("f8", "f8"), "f4 and f8": ("f4", "f8"),
}
#: dtypes that the loops decode from; others are `EXOTIC_SOURCES`.
SOURCES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
EXOTIC_SOURCES = ("?", "f2", "c8", "c16")


@dataclass(frozen=True)
class Case:
    """Frames to decode and what they hold.

    Attributes
    ----------
    staged : uint8[n]
        Packed bytes; the last one is the last that any placement needs.
    starts : int64[frames, parts]
    placements : int64[entries, 12]
    expected : native dtype[frames, frame_pixels]
        Decoded pixels; zero where nothing is written.
    written : bool[frame_pixels]
        Pixels that some placement names.
    """

    id: str
    encoding: Encoding
    staged: np.ndarray
    starts: np.ndarray
    placements: np.ndarray
    frame_pixels: int
    expected: np.ndarray
    written: np.ndarray

    def suits(self, dtype: str) -> bool:
        """Whether NumPy defines what these pixels are in `dtype`: reals must fit into integers."""
        to, values = np.dtype(dtype) if dtype != "native" else self.encoding.dtype, self.expected
        if values.dtype.kind not in "fc" or to.kind not in "iu":
            return True
        limits = np.iinfo(to)
        real = values.real.astype("f8")
        return bool((np.isfinite(real) & (np.trunc(real) >= float(limits.min)) & (np.trunc(real) < float(limits.max) + 1)).all())


@dataclass(frozen=True)
class Row:
    """One encoding. `pack(pixels)` makes the bytes of whole groups, one array for each plane."""

    name: str
    dtypes: tuple[str, ...]
    group_pixels: int
    pack: Callable[[np.ndarray], list[np.ndarray]]
    bits: int = 0           # values hold that many bits; 0: all bits of the dtype

    def encoding(self, dtype: str, param: int) -> Encoding:
        probe = self.pack(np.zeros(self.group_pixels, dtype))
        return Encoding(self.name, np.dtype(dtype), len(probe[0]), self.group_pixels, param)


# ---- packers -----------------------------------------------------------------------------------------------------------


def pack_plain(pixels: np.ndarray) -> list[np.ndarray]:
    return [np.frombuffer(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), np.uint8)]


def pack_swap(pixels: np.ndarray) -> list[np.ndarray]:
    return [np.frombuffer(pixels.astype(pixels.dtype.newbyteorder(">")).tobytes(), np.uint8)]


def pack_r1(pixels: np.ndarray) -> list[np.ndarray]:
    """64 pixels are a big-endian number, pixel k its bit k."""
    weights = np.uint64(1) << np.arange(64, dtype=np.uint64)
    words = (pixels.reshape(-1, 64).astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)
    return [np.frombuffer(words.astype(">u8").tobytes(), np.uint8)]


def pack_r6(pixels: np.ndarray) -> list[np.ndarray]:
    """8 bytes, last pixel first."""
    return [np.ascontiguousarray(pixels.reshape(-1, 8)[:, ::-1]).ravel()]


def pack_r12(pixels: np.ndarray) -> list[np.ndarray]:
    """4 big-endian words, last pixel first."""
    return [np.frombuffer(pixels.reshape(-1, 4)[:, ::-1].astype(">u2").tobytes(), np.uint8)]


def pack_r24(pixels: np.ndarray) -> list[np.ndarray]:
    """An image of the high 12 bits and one of the low 12 bits, each as R12."""
    return [pack_r12((pixels >> 12).astype("u2"))[0], pack_r12((pixels & 4095).astype("u2"))[0]]


def pack_uint12_le(pixels: np.ndarray) -> list[np.ndarray]:
    """Two pixels are a little-endian number of 3 bytes, the first one its low 12 bits."""
    even, odd = pixels[::2].astype("u4"), pixels[1::2].astype("u4")
    return [(even | odd << 12).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].ravel()]


def pack_uint4_le(pixels: np.ndarray) -> list[np.ndarray]:
    """Two pixels are a byte, the first one its low 4 bits."""
    return [(pixels[::2] + 16 * pixels[1::2]).astype("u1")]


ROWS = (
    Row("plain", SOURCES + EXOTIC_SOURCES, 1, pack_plain),
    Row("swap", tuple(d for d in SOURCES + EXOTIC_SOURCES if np.dtype(d).itemsize > 1), 1, pack_swap),
    Row("mib_r1", ("u1",), 64, pack_r1, bits=1),
    Row("mib_r6", ("u1",), 8, pack_r6),         # values are not masked: all 8 bits count
    Row("mib_r12", ("u2",), 4, pack_r12),
    Row("mib_r24", ("u4",), 4, pack_r24, bits=24),
    Row("uint12_le", ("u2",), 2, pack_uint12_le, bits=12),
    Row("uint4_le", ("u1",), 2, pack_uint4_le, bits=4),
)


# ---- layouts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """`groups` whole groups of one part of a frame, from byte `offset` of the frame's part."""

    offset: int
    groups: int
    part: int = 0


@dataclass(frozen=True)
class Placed:
    """A frame: what is stored, and where it goes."""

    frame_pixels: int
    segments: list[Segment]
    pieces: list[Piece]


def contiguous_rows(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Rows without a gap, no whole number of steps in any."""
    height, groups = 7, max(1, 83 // group) | 1
    width = groups * group
    return Placed(height * width, [Segment(0, height * groups)],
                  [Piece(0, 0, width, rows=height, row_src=groups * group_bytes, row_pos=width)])


def rows_with_gaps(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Rows with a footer of 5 bytes into every other row of the detector, columns 2 ... left alone at the end."""
    height, groups = 5, -(-131 // group)
    width, stride = groups * group, groups * group_bytes + 5
    return Placed(2 * height * (width + 3), [Segment(3 + r * stride, groups) for r in range(height)],
                  [Piece(3, width + 4, width, rows=height, row_src=stride, row_pos=2 * (width + 3))])


def upside_down(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Stored bottom row first, and addressed from the last stored row backwards, too."""
    height, groups = 11, -(-37 // group)
    width, row = groups * group, groups * group_bytes
    half = Segment(0, height * groups), Segment(height * row, height * groups)
    return Placed(2 * height * width, list(half), [
        Piece(0, (height - 1) * width, width, rows=height, row_src=row, row_pos=-width),
        Piece((2 * height - 1) * row, height * width, width, rows=height, row_src=-row, row_pos=width),
    ])


def mirrored(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Every row from right to left."""
    height, groups = 6, -(-67 // group)
    width = groups * group
    return Placed(height * width, [Segment(0, height * groups)],
                  [Piece(0, width - 1, width, rows=height, row_src=groups * group_bytes, row_pos=width, reversed=True)])


def quad(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """2x2 chips: a stored row is the blocks 4, 3, 2, 1; chips 3 and 4 are rotated by 180 degrees (formats: MIB RAW 2x2)."""
    height, groups = 37, -(-19 // group)
    chip, row = groups * group, 4 * groups * group_bytes
    side, block = 2 * chip, groups * group_bytes
    top = Piece(src=2 * block, pos=chip, pixels=chip, rows=height, row_src=row, row_pos=side, repeats=2, rep_src=block, rep_pos=-chip)
    bottom = replace(top, src=0, pos=2 * height * side - 1, row_pos=-side, reversed=True)
    return Placed(2 * height * side, [Segment(0, height * 4 * groups)], [top, bottom])


def blocks_side_by_side(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """K2IS: narrow blocks with a header each, stored from right to left; two halves."""
    width = -(-16 // group) * group
    height, blocks, groups = 23, 5, width // group
    block = 40 + height * groups * group_bytes
    segments = [Segment(b * block + 40, height * groups) for b in range(2 * blocks)]
    pieces = [Piece(src=half * blocks * block + 40, pos=half * height * blocks * width + (blocks - 1) * width, pixels=width,
                    rows=height, row_src=groups * group_bytes, row_pos=blocks * width, repeats=blocks, rep_src=block, rep_pos=-width)
              for half in (0, 1)]
    return Placed(2 * height * blocks * width, segments, pieces)


def folded(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """FRMS6: a stored row holds a row of the upper half and, rotated, one of the lower half. Runs end half a step late."""
    height, groups = 19, -(-(16 * 3 + 8) // group)
    width, half = groups * group, groups * group_bytes
    return Placed(2 * height * width, [Segment(0, height * 2 * groups)], [
        Piece(0, 0, width, rows=height, row_src=2 * half, row_pos=width),
        Piece(half, 2 * height * width - 1, width, rows=height, row_src=2 * half, row_pos=-width, reversed=True),
    ])


def unbinned(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """FRMS6 with binning: folded, and each stored run goes to three rows of the detector."""
    height, groups, times = 5, -(-(16 * 2 + 8) // group), 3
    width, half = groups * group, groups * group_bytes
    common = {"pixels": width, "rows": height, "row_src": 2 * half, "repeats": times}
    return Placed(2 * height * times * width, [Segment(0, height * 2 * groups)], [
        Piece(0, 0, row_pos=times * width, rep_pos=width, **common),
        Piece(half, 2 * height * times * width - 1, row_pos=-times * width, rep_pos=-width, reversed=True, **common),
    ])


def every_length(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """One run of each length up to several steps, cut anywhere, either way round, a pixel left alone between them."""
    lengths = [*range(1, 71), 79, 80, 81, 127, 128, 129, 191, 192, 193, 256, 257]
    rng.shuffle(lengths)
    segments, pieces, offset, pos = [], [], int(rng.integers(7)), 1
    for n in lengths:
        skipped = int(rng.integers(group))
        groups = -(-(skipped + n) // group)
        backwards = bool(rng.integers(2))
        segments.append(Segment(offset, groups))
        pieces.append(Piece(offset, pos + n - 1 if backwards else pos, n, skipped=skipped, reversed=backwards))
        offset += groups * group_bytes + int(rng.integers(3))
        pos += n + 1
    return Placed(pos, segments, pieces)


def cut_columns(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """A box of the detector: neighbouring pieces share the groups at their borders."""
    height, groups = 9, -(-97 // group)
    width, row = groups * group, groups * group_bytes
    borders = sorted({1, 3, width // 3 + 1, width // 2 + 1, width - 2})
    pieces = [Piece(a // group * group_bytes, a, b - a, rows=height, row_src=row, row_pos=width, skipped=a % group)
              for a, b in pairwise(borders)]
    return Placed(height * width, [Segment(0, height * groups)], pieces)


def several_parts(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Three files a frame, each with a band of columns; the middle one is cut and mirrored."""
    height, groups = 8, -(-29 // group)
    band, row = groups * group, groups * group_bytes
    cut = min(3, group - 1)
    pieces = [
        Piece(2, 0, band, rows=height, row_src=row, row_pos=3 * band, part=0),
        Piece(0, 2 * band - 1, band - cut, rows=height, row_src=row + 1, row_pos=3 * band, skipped=cut, reversed=True, part=1),
        Piece((height - 1) * row, 2 * band, band, rows=height, row_src=-row, row_pos=3 * band, part=2),
    ]
    segments = [Segment(2, height * groups, 0), Segment(0, height * groups, 2), *(Segment(r * (row + 1), groups, 1) for r in range(height))]
    return Placed(height * 3 * band, segments, pieces)


def single_pixel(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """A frame of one pixel, the last of its group."""
    return Placed(1, [Segment(0, 1)], [Piece(0, 0, 1, skipped=group - 1)])


def one_pixel_columns(rng: np.random.Generator, group_bytes: int, group: int) -> Placed:
    """Runs of one pixel each, many repeats and rows: a transposed frame."""
    height, width = 13, 7
    size = group_bytes
    return Placed(height * width, [Segment(0, height * width)],
                  [Piece(0, 0, 1, rows=width, row_src=height * size, row_pos=1, repeats=height, rep_src=size, rep_pos=width,
                         skipped=group // 2)])


LAYOUTS = (contiguous_rows, rows_with_gaps, upside_down, mirrored, quad, blocks_side_by_side, folded, unbinned, every_length,
           cut_columns, several_parts, single_pixel, one_pixel_columns)


# ---- values ------------------------------------------------------------------------------------------------------------


def random_pixels(rng: np.random.Generator, n: int, dtype: np.dtype, bits: int = 0, tame: bool = False) -> np.ndarray:
    """Random pixels, every seventh or so an extreme one; `tame` reals fit into any integer."""
    if dtype.kind == "c":
        parts = random_pixels(rng, 2 * n, np.dtype(f"f{dtype.itemsize // 2}"), tame=tame)
        return parts.view(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, n).astype(bool)
    if dtype.kind == "f":
        if tame:
            return rng.uniform(-0.99, 127.9, n).astype(dtype)
        info = np.finfo(dtype)
        values = (rng.standard_normal(n) * np.exp2(rng.integers(-13, 14, n))).astype(dtype)
        extremes = np.array([0, -0.0, np.inf, -np.inf, np.nan, info.max, info.min, info.tiny, info.smallest_subnormal, 1 + info.eps,
                             2049.0, 16777217.0, 1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50], dtype="f8")
        with np.errstate(all="ignore"):
            extremes = extremes.astype(dtype)
    else:
        top = 2**bits - 1 if bits else int(np.iinfo(dtype).max)
        bottom = int(np.iinfo(dtype).min)
        values = rng.integers(bottom, top, n, dtype=dtype, endpoint=True)
        # 2**24 + 1 and the like lie halfway between two floats: they show whether a value is rounded once.
        halfway = [2**k + d for k in (24, 25, 31, 32, 53, 54, 62, 63) for d in (-1, 1, 2**max(0, k - 24), 2**max(0, k - 24) + 1)]
        extremes = np.array([v for v in (bottom, bottom + 1, 0, 1, top - 1, top, top // 2, top // 2 + 1, *halfway) if bottom <= v <= top]
                            + ([-1] if bottom < 0 else []), dtype=dtype)
    where = rng.integers(0, 7, n) == 0
    values[where] = rng.choice(extremes, int(where.sum()))
    return values


# ---- cases -------------------------------------------------------------------------------------------------------------


def build(row: Row, dtype: str, layout: Callable[[np.random.Generator, int, int], Placed], *, frames: int = 4, seed: int = 0,
          tame: bool = False) -> Case:
    """Fill the segments of `frames` frames with random pixels, pack them, and look up where pixels go."""
    name = f"{row.name}-{dtype}-{layout.__name__}" + ("-tame" if tame else "")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    native = np.dtype(dtype)
    probe = row.encoding(dtype, 0)
    placed = layout(rng, probe.group_bytes, row.group_pixels)
    n_parts = 1 + max(s.part for s in placed.segments)
    length = max(s.offset + s.groups * probe.group_bytes for s in placed.segments)
    planes = len(row.pack(np.zeros(row.group_pixels, native)))
    encoding = replace(probe, param=length + 3 if planes > 1 else 0)
    extent = length + (planes - 1) * encoding.param

    # Frames' parts lie in shuffled order with odd gaps between them; the last frame is the first one again.
    stored = frames - 1
    gaps = rng.integers(0, 9, stored * n_parts)
    at = (np.cumsum(gaps) + extent * np.arange(stored * n_parts)).astype(np.int64)
    staged = rng.integers(0, 256, int(at[-1]) + extent, dtype=np.uint8)
    starts = np.ascontiguousarray(rng.permutation(at).reshape(stored, n_parts)[np.r_[0:stored, 0]])

    expected = np.zeros((frames, placed.frame_pixels), native)
    written = np.zeros(placed.frame_pixels, bool)
    needed = 0
    for f in range(stored):
        pixels = {}
        for s in placed.segments:
            pixels[s] = random_pixels(rng, s.groups * row.group_pixels, native, row.bits, tame)
            for plane, blob in enumerate(row.pack(pixels[s])):
                begin = starts[f, s.part] + s.offset + plane * encoding.param
                staged[begin:begin + len(blob)] = blob
        for piece, where, segment, first in _runs(placed, encoding):
            expected[f, where] = pixels[segment][first:first + piece.pixels]
            written[where] = True
            groups = -(-(first + piece.pixels) // row.group_pixels)
            needed = max(needed, starts[f, segment.part] + segment.offset + groups * encoding.group_bytes + encoding.param)
    expected[stored] = expected[0]
    return Case(name, encoding, staged[:needed].copy(), starts, placement_table(placed.pieces), placed.frame_pixels, expected, written)


def _runs(placed: Placed, encoding: Encoding) -> Iterator[tuple[Piece, np.ndarray, Segment, int]]:
    """Every run of every piece: where its pixels go, its segment, and its first pixel in that segment."""
    for p in placed.pieces:
        way = np.arange(p.pixels) * (-1 if p.reversed else 1)
        for r in range(p.rows):
            for k in range(p.repeats):
                src = p.src + r * p.row_src + k * p.rep_src
                segment = next(s for s in placed.segments
                               if s.part == p.part and s.offset <= src < s.offset + s.groups * encoding.group_bytes)
                group, rest = divmod(src - segment.offset, encoding.group_bytes)
                assert rest == 0, "a run starts at a group"
                yield p, p.pos + r * p.row_pos + k * p.rep_pos + way, segment, group * encoding.group_pixels + p.skipped


def cases(names: tuple[str, ...] | None = None, dtypes: tuple[str, ...] | None = None, seed: int = 0) -> Iterator[Case]:
    """Every row of the table in every layout; `names` and `dtypes` (of the stored pixels) choose some. Reals come in a tame form, too."""
    for row in ROWS:
        if names is not None and row.name not in names:
            continue
        for dtype in row.dtypes:
            if dtypes is not None and dtype not in dtypes:
                continue
            for layout in LAYOUTS:
                yield build(row, dtype, layout, seed=seed)
                if np.dtype(dtype).kind in "fc":
                    yield build(row, dtype, layout, seed=seed, tame=True)


def maps(case: Case, kind: str, seed: int = 0) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Random dark and gain of a case, as `MAPS` names them. float64 maps hold values that float32 cannot."""
    rng = np.random.default_rng([seed, zlib.crc32((case.id + kind).encode())])
    dark, gain = MAPS[kind]
    return (None if dark is None else rng.normal(100, 30, case.frame_pixels).astype(dark),
            None if gain is None else rng.normal(1, 0.2, case.frame_pixels).astype(gain))


def reference(case: Case, dtype: str, dark: np.ndarray | None, gain: np.ndarray | None, out_before: np.ndarray) -> np.ndarray:
    """What decoding into `out_before` gives, in plain NumPy.

    The value is converted as by `astype`, the real part of a complex one, then corrected in float64 (complex128) and
    rounded once. Pixels that no placement names keep their value.
    """
    to = case.encoding.dtype if dtype == "native" else np.dtype(dtype)
    values = case.expected.real if case.expected.dtype.kind == "c" and to.kind not in "cb" else case.expected
    with np.errstate(all="ignore"):
        v = values.astype(to)
        if dark is not None or gain is not None:
            wide = v.astype(np.result_type(to, np.float64))
            if dark is not None:
                wide = wide - dark
            if gain is not None:
                wide = wide * gain
            v = wide.astype(to)
    return np.where(case.written, v, out_before).astype(to)


def assert_same(actual: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """Every element has the same bits; a NaN may be any NaN."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
    bits = np.dtype(f"V{actual.dtype.itemsize}")
    differs = np.ascontiguousarray(actual).view(bits) != np.ascontiguousarray(expected).view(bits)
    if actual.dtype.kind in "fc":
        differs &= ~(np.isnan(actual.real) & np.isnan(expected.real) | np.isnan(actual.imag) & np.isnan(expected.imag))
    if differs.any():
        at = tuple(int(i) for i in np.argwhere(differs)[0])
        raise AssertionError(f"{what}: {int(differs.sum())} of {differs.size} differ, first at {at}: "
                             f"{actual[at]!r}, expected {expected[at]!r}")
