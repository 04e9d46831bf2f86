"""A synthetic 4D-STEM scan: plausible, of any size, and the same bytes however it is cut into stacks.

What is in it: a bright-field disk whose centre drifts over the scan; a specimen with a ragged edge, growing thickness, two
grains and lattice fringes, which the scan image shows; the Bragg disks of the grains; a diffuse background; counting noise;
on request the detector's dark, gain and dead pixels.

How it is fast: drawing Poisson numbers for every pixel of every frame would take many times longer than writing them.
The sum of Poisson numbers is one, too. So a few noisy images are drawn for each of the intensities 1/31, 2/31, 4/31,
8/31 and 16/31 of a pattern, and a frame of intensity 21/31 is the sum of one of the 16/31, 4/31 and 1/31 each, shifted
to the frame's centre. Which ones follows from a hash of the frame's number, so frames do not depend on each other. The
stray counts everywhere on the detector come from one long strip, begun anywhere, so that hardly any two frames are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from gpuio.errors import ShapeError

#: Binary digits of the intensity of the transmitted disk and of the Bragg disks.
DISK_DIGITS, BRAGG_DIGITS = 5, 3
GRAINS = 2
#: Noisy images for each digit, fewer if they would take more than `BANK_BYTES`.
MAX_IMAGES, MIN_IMAGES = 16, 2
BANK_BYTES = 64 << 20
#: Places at which the strip of stray counts can begin.
STRIP_STARTS = 65521
#: Frames are handed out in stacks of about this size.
STACK_BYTES = 4 << 20
#: Intensities in relation to the transmitted disk in vacuum: the six Bragg disks together at most, background, stray counts.
BRAGG_TOTAL, DIFFUSE, STRAY = 0.5, 0.03, 0.002
MAX_DOSE = 10_000


class _Frames:
    """A scan whose frames can be made in any order."""

    def __init__(self, nav_shape: Sequence[int], sig_shape: Sequence[int], seed: int, dtype: np.dtype) -> None:
        self.nav_shape, self.sig_shape = tuple(map(int, nav_shape)), tuple(map(int, sig_shape))
        if not self.nav_shape or not self.sig_shape or min(self.nav_shape + self.sig_shape) < 1:
            raise ShapeError(f"a scan needs positions and pixels; nav shape is {self.nav_shape}, sig shape {self.sig_shape}")
        self.seed, self.dtype = int(seed), dtype

    def __len__(self) -> int:
        return math.prod(self.nav_shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, in stacks of about 4 MiB."""
        depth = max(1, STACK_BYTES // (math.prod(self.sig_shape) * self.dtype.itemsize))
        for start in range(0, len(self), depth):
            yield self.frames(start, min(start + depth, len(self)))

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start:stop``, counted over the scan in C order.

        Returns
        -------
        dtype[stop - start, *sig]

        Raises
        ------
        ShapeError
            The range is not within the scan.
        """
        if not 0 <= start <= stop <= len(self):
            raise ShapeError(f"frames {start} to {stop} are not in a scan of {len(self)}")
        out = np.empty((stop - start, *self.sig_shape), dtype=self.dtype)
        self._fill(out, np.arange(start, stop, dtype=np.int64))
        return out

    def _fill(self, out: np.ndarray, index: np.ndarray) -> None:
        raise TypeError(f"{type(self).__name__} does not define _fill")


class Scene(_Frames):
    """A synthetic scan.

    Parameters
    ----------
    nav_shape
        Scan axes; the last two are y and x, those before are time.
    sig_shape
        Detector axes; the last two are y and x.
    seed
        Of everything random.
    dose
        Mean counts of a pixel in the transmitted disk where no specimen is in the beam; up to 10,000.
    bits
        Depth of the counters, up to 16: counts stop at ``2**bits - 1``.
    dark
        Mean of the dark frame, in counts; 0: there is none.
    gain
        Standard deviation of the gain from pixel to pixel and from chip to chip; 0: all pixels are alike.
    dead_pixels
        Number of pixels that are stuck, at zero and at the largest count in turn.

    Attributes
    ----------
    dark, gain : float32[sig]
        Corrections: ``(frame - dark) * gain`` is the number of electrons, but for rounding.
    dead : bool[sig]
        Pixels that are stuck.
    dtype
        uint16.

    Raises
    ------
    ShapeError, ValueError
        A parameter is out of range.
    """

    def __init__(self, nav_shape: Sequence[int], sig_shape: Sequence[int], *, seed: int = 0, dose: float = 64.0, bits: int = 16,
                 dark: float = 1.0, gain: float = 0.03, dead_pixels: int = 0) -> None:
        super().__init__(nav_shape, sig_shape, seed, np.dtype(np.uint16))
        if not (0 < dose <= MAX_DOSE and 1 <= bits <= 16 and 0 <= dark <= MAX_DOSE and 0 <= gain <= 0.1):
            raise ValueError(f"dose {dose}, bits {bits}, dark {dark}, gain {gain}; "
                             f"expected dose and dark up to {MAX_DOSE}, 1 to 16 bits, gain up to 0.1")
        if not 0 <= dead_pixels <= math.prod(self.sig_shape):
            raise ValueError(f"dead_pixels is {dead_pixels}; the detector has {math.prod(self.sig_shape)} pixels")
        self.dose, self._top = float(dose), (1 << bits) - 1
        self._height, self._width = math.prod(self.sig_shape[:-1]), self.sig_shape[-1]
        # How far the pattern wanders at most, in pixels.
        self._reach = tuple(0 if n == 1 else max(1, n // 16) for n in (self._height, self._width))
        rng = np.random.default_rng([self.seed, 1])
        self.dark = (dark * rng.gamma(4.0, 0.25, self.sig_shape)).astype(np.float32)
        self.gain = self._gain_map(rng, gain).astype(np.float32)
        self._stuck = rng.permutation(math.prod(self.sig_shape))[:dead_pixels]
        self.dead = np.zeros(self.sig_shape, dtype=bool)
        self.dead.ravel()[self._stuck] = True
        self._ideal = not (dark or gain)

    def flat(self, bits: int) -> Flat:
        """Uniform random counts of the same shape, which no cache, compressor or clever shortcut can make use of."""
        return Flat(self.nav_shape, self.sig_shape, bits, seed=self.seed)

    def _gain_map(self, rng: np.random.Generator, spread: float) -> np.ndarray:
        """Gain of four chips and of every pixel around it, at most 4 standard deviations from 1."""
        chips = rng.standard_normal((2, 2))[np.arange(self._height) * 2 // self._height][:, np.arange(self._width) * 2 // self._width]
        pixels = rng.standard_normal((self._height, self._width))
        return (1 + spread * np.clip((chips + pixels) / math.sqrt(2), -4, 4)).reshape(self.sig_shape)

    def _fill(self, out: np.ndarray, index: np.ndarray) -> None:
        disk, bragg, grain, shift_y, shift_x = (a.tolist() for a in self._specimen(index))
        banks, (reach_y, reach_x) = self._banks, self._reach
        n_images = banks[0][0].shape[0]
        random = _hash(self.seed, index[:, None] * 64 + np.arange(DISK_DIGITS + BRAGG_DIGITS + 1))
        picks, starts = random[:, 1:] % np.uint64(n_images), random[:, 0] % np.uint64(STRIP_STARTS)
        stack = out.reshape(len(out), self._height, self._width)
        inverse_gain, dark = (1 / self.gain).reshape(stack.shape[1:]), self.dark.reshape(stack.shape[1:])
        for number, (frame, row, start) in enumerate(zip(stack, picks.tolist(), starts.tolist(), strict=True)):
            y, x = shift_y[number], shift_x[number]
            window = slice(reach_y + y, reach_y + y + self._height), slice(reach_x + x, reach_x + x + self._width)
            frame[...] = self._strip[start:start + frame.size].reshape(frame.shape)
            for d in range(DISK_DIGITS):
                if disk[number] >> d & 1:
                    frame += banks[0][d][row[d]][window]
            for d in range(BRAGG_DIGITS):
                if bragg[number] >> d & 1:
                    frame += banks[1 + grain[number]][d][row[DISK_DIGITS + d]][window]
            if not self._ideal:
                frame[...] = np.rint(frame * inverse_gain + dark)
        np.minimum(out, self._top, out=out)
        if len(self._stuck):
            flat = out.reshape(len(out), math.prod(self.sig_shape))
            flat[:, self._stuck[::2]] = 0
            flat[:, self._stuck[1::2]] = self._top

    def _specimen(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the beam meets at scan positions: levels of disk and Bragg disks, grain, shift of the pattern in y and x."""
        ny, nx = ((1, *self.nav_shape)[-2:])
        iy, ix, time = index // nx % ny, index % nx, index // (nx * ny)
        v, u = (iy + 0.5) / ny, (ix + 0.5) / nx
        edge = 0.25 + 0.06 * np.sin(9 * v + 0.2 * time) + 0.03 * np.sin(23 * v)
        thickness = np.clip((u - edge) / 0.75, 0, 1)
        grain = (v > 0.35 + 0.4 * u).astype(np.int64)
        # Fringes of eight scan positions, in the direction of the grain.
        angle = np.where(grain == 0, 0.3, 1.2)
        along, across = ix * np.cos(angle) + iy * np.sin(angle), iy * np.cos(angle) - ix * np.sin(angle)
        lattice = np.where(thickness > 0, 0.5 + 0.25 * np.cos(along * 0.785) + 0.25 * np.cos(across * 0.785), 0)
        transmitted = np.exp(-0.9 * thickness) * (1 - 0.35 * lattice)
        disk = np.maximum(1, np.rint((2**DISK_DIGITS - 1) * transmitted)).astype(np.int64)
        # Of what the disk loses, Bragg disks take 3 in 5; the rest goes past the detector.
        bragg = np.minimum(2**BRAGG_DIGITS - 1, np.rint((2**BRAGG_DIGITS - 1) * 0.6 * (1 - transmitted) / BRAGG_TOTAL)).astype(np.int64)
        # The scan moves the pattern a little, and the field at the specimen's edge a little more.
        field = np.exp(-(((u - edge) / 0.06) ** 2))
        shift_y = np.rint(self._reach[0] * 0.6 * np.cos(3 * v + 0.1 * time)).astype(np.int64)
        shift_x = np.rint(self._reach[1] * (0.6 * np.sin(2.5 * u) - 0.4 * field)).astype(np.int64)
        return disk, bragg, grain, shift_y, shift_x

    @cached_property
    def _banks(self) -> list[list[np.ndarray]]:
        """Noisy images: for the disk and for each grain, for each digit: uint16[images, height + 2 reach, width + 2 reach]."""
        rng = np.random.default_rng([self.seed, 2])
        disk, *grains = self._patterns()
        n_digits = DISK_DIGITS + GRAINS * BRAGG_DIGITS
        n_images = max(MIN_IMAGES, min(MAX_IMAGES, BANK_BYTES // (2 * disk.size * n_digits)))

        def bank(pattern: np.ndarray, digits: int) -> list[np.ndarray]:
            shares = (2**d / (2**digits - 1) for d in range(digits))
            return [rng.poisson(self.dose * share * pattern, (n_images, *pattern.shape)).astype(np.uint16) for share in shares]

        return [bank(disk, DISK_DIGITS), *(bank(pattern, BRAGG_DIGITS) for pattern in grains)]

    @cached_property
    def _strip(self) -> np.ndarray:
        """Stray counts, uint16[pixels + STRIP_STARTS]."""
        rng = np.random.default_rng([self.seed, 3])
        return rng.poisson(self.dose * STRAY, math.prod(self.sig_shape) + STRIP_STARTS).astype(np.uint16)

    def _patterns(self) -> list[np.ndarray]:
        """Mean patterns in units of the dose, with a margin all around: transmitted disk, Bragg disks of each grain."""
        size = min(n for n in (self._height, self._width) if n > 1 or self._width == 1)
        y = np.arange(-self._reach[0], self._height + self._reach[0])[:, None] - (self._height - 1) / 2
        x = np.arange(-self._reach[1], self._width + self._reach[1])[None, :] - (self._width - 1) / 2
        radius, soft = 0.11 * size, max(0.25, 0.006 * size)

        def spot(at_y: float, at_x: float) -> np.ndarray:
            distance = np.hypot(y - at_y, x - at_x)
            return np.asarray(1 / (1 + np.exp(np.clip((distance - radius) / soft, -50, 50))))

        patterns = [spot(0, 0) + DIFFUSE * np.exp(-(y**2 + x**2) / (0.3 * size) ** 2)]
        for grain in range(GRAINS):
            turns = 0.2 + 0.45 * grain + np.arange(6) * math.pi / 3
            spots = [(1 + 0.4 * math.cos(2 * t)) * spot(0.31 * size * math.sin(t), 0.31 * size * math.cos(t)) for t in turns.tolist()]
            patterns.append(BRAGG_TOTAL / len(turns) * np.sum(spots, axis=0))
        return patterns


class Flat(_Frames):
    """Uniform random counts from 0 to ``2**bits - 1``, for benchmarks.

    Parameters
    ----------
    nav_shape, sig_shape
        Scan and detector axes.
    bits
        1 to 32; frames are of the smallest unsigned dtype that holds them.
    seed
        Frame number i depends on the seed and i only.
    """

    def __init__(self, nav_shape: Sequence[int], sig_shape: Sequence[int], bits: int, *, seed: int = 0) -> None:
        if not 1 <= bits <= 32:
            raise ValueError(f"bits is {bits}; expected 1 to 32")
        super().__init__(nav_shape, sig_shape, seed, np.min_scalar_type((1 << bits) - 1))
        self.bits = bits

    def _fill(self, out: np.ndarray, index: np.ndarray) -> None:
        for frame, i in zip(out, index.tolist(), strict=True):
            # The counter's high words are the frame's number, so that frames never share random words.
            rng = np.random.Generator(np.random.Philox(key=self.seed, counter=i << 128))
            words = np.frombuffer(rng.bytes(frame.nbytes), self.dtype)
            np.right_shift(words.reshape(self.sig_shape), 8 * self.dtype.itemsize - self.bits, out=frame)


def _hash(seed: int, words: np.ndarray) -> np.ndarray:
    """uint64 numbers that look random, one for each word (the finalizer of the SplitMix64 generator)."""
    z = words.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
