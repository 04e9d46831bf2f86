"""Pictures: the scan image and the mean pattern of a data set, side by side in one PNG.

Numbers come from `DataSet.summary`, one streamed pass; everything here is small and runs on the host. Grey values are a
percentile stretch, so that a few hot pixels do not leave the rest black; the bar below each panel says which value is
black and which is white. Panels keep their aspect: small images are enlarged by whole factors without smoothing, large
ones are averaged down.

>>> scan, pattern = summarise(ds)
>>> save(overview(scan, pattern), "scan.png")
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuio.newfile import new_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from gpuio.corrections import CorrectionSet
    from gpuio.dataset import DataSet

#: Longest side of a panel, in pixels of the picture: images below half of it are enlarged, images above are averaged down.
PANEL = 512
MARGIN = 24
TEXT = 15
#: Percentiles of an image that become black and white.
BLACK, WHITE = 0.5, 99.5
INK, FAINT, PAPER = 20, 110, 255


@dataclass(frozen=True)
class Panel:
    """One image of a picture.

    Parameters
    ----------
    values : number[...]
        Any number of axes and any real or complex dtype; see `flat_image`.
    title
        A line above it.
    log
        Logarithmic grey values.
    """

    values: np.ndarray
    title: str
    log: bool = False


def summarise(ds: DataSet, *, corrections: CorrectionSet | None = None, memory: int | str | None = None,
              threads: int | None = None, progress: Callable[[int, int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scan image and mean pattern in one pass.

    Returns
    -------
    scan : float64 or wide integer, nav shape
        Sum of each frame; blank positions are zero.
    pattern : float64 or complex128, sig shape
        Mean over the positions that have a frame.
    """
    scan, total = ds.summary(corrections=corrections, memory=memory, threads=threads, progress=progress)
    present = scan.size - np.count_nonzero(ds.blank())
    return scan, total / max(1, present)


def overview(scan: np.ndarray, pattern: np.ndarray, *, log: bool = True) -> Image:
    """The picture that ``gpuio show`` writes."""
    return picture([Panel(scan, f"scan image, {_size(scan.shape)}"),
                    Panel(pattern, f"mean pattern, {_size(pattern.shape)}" + (", log" if log else ""), log)])


def picture(panels: Sequence[Panel]) -> Image:
    """Panels side by side, each with its title and the values of its grey scale.

    Returns
    -------
    PIL.Image.Image
        Mode "L".
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT)
    drawn = [(panel, *_draw(panel)) for panel in panels]
    widths = [max(image.width, math.ceil(font.getlength(panel.title)), 200) for panel, image, _, _ in drawn]
    height = max(image.height for _, image, _, _ in drawn)
    top = MARGIN + TEXT + 9
    sheet = Image.new("L", (sum(widths) + MARGIN * (len(drawn) + 1), top + height + TEXT + 25 + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    left = MARGIN
    for (panel, image, low, high), width in zip(drawn, widths, strict=True):
        pen.text((left, MARGIN), panel.title, fill=INK, font=font)
        sheet.paste(image, (left, top))
        pen.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=FAINT)
        _scale_bar(pen, font, left, top + image.height + 10, max(image.width, 200), low, high)
        left += width + MARGIN
    return sheet


def save(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG; a file that is there before is replaced only by a whole one.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written.
    """
    with new_file(os.fspath(path)) as temporary:
        image.save(temporary, format="PNG")


def flat_image(values: np.ndarray) -> np.ndarray:
    """Any array as a float64 image.

    A line (at most one axis longer than 1) becomes a lying strip high enough to be seen. Of more than two axes, the leading
    ones become a mosaic of images, filled row by row. Complex values are shown by magnitude.
    """
    values = np.abs(values) if np.iscomplexobj(values) else np.asarray(values)
    image = values.astype(np.float64)
    if image.size == max(image.shape, default=1):
        line = image.reshape(1, -1)
        return np.repeat(line, max(1, line.shape[1] // 12), axis=0)
    if image.ndim == 2:
        return image
    stack = image.reshape(-1, *image.shape[-2:])
    count, height, width = stack.shape
    across = max(1, min(count, round(math.sqrt(count * height / width))))
    down = math.ceil(count / across)
    mosaic = np.full((down * across, height, width), np.nan)
    mosaic[:count] = stack
    return mosaic.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, across * width)


def stretch(image: np.ndarray, *, log: bool = False) -> tuple[np.ndarray, float, float]:
    """Grey values by percentiles.

    Parameters
    ----------
    image : float64[y, x]
        NaN and infinities are left out of the percentiles; NaN becomes black.
    log
        Grey grows with the logarithm; values that are not positive are black. Linear if no two positive values differ.

    Returns
    -------
    grey : uint8[y, x]
    low, high : float
        The values that are black and white; equal if there is nothing to stretch.
    """
    usable = image[np.isfinite(image)]
    low, high = _range(usable[usable > 0]) if log else (0.0, 0.0)
    if low < high:
        share = (np.log(np.where(image > 0, image, low)) - math.log(low)) / (math.log(high) - math.log(low))
    else:
        low, high = _range(usable)
        share = (image - low) / ((high - low) or 1.0)
    share = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(np.clip(share, 0.0, 1.0) * 255).astype(np.uint8), low, high


def _range(values: np.ndarray) -> tuple[float, float]:
    """Percentiles of `values`; their extremes where hardly any value differs, as in a pattern of a few counts."""
    if not values.size:
        return 0.0, 0.0
    low, high = (float(v) for v in np.percentile(values, (BLACK, WHITE)))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def _draw(panel: Panel) -> tuple[Image, float, float]:
    """The grey image of a panel at its size in the picture, and its black and white values."""
    from PIL import Image

    values = flat_image(panel.values)
    shrink = max(1, math.ceil(max(values.shape) / PANEL))
    if shrink > 1:
        values = _averaged(values, shrink)
    grey, low, high = stretch(values, log=panel.log)
    enlarge = max(1, PANEL // max(grey.shape))
    return Image.fromarray(grey.repeat(enlarge, axis=0).repeat(enlarge, axis=1)), low, high


def _averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of `factor` x `factor` pixels; those at the lower and right edge may be smaller."""
    edges = [np.arange(0, n, factor) for n in image.shape]
    counts = [np.diff(np.append(edge, n)) for edge, n in zip(edges, image.shape, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(image, edges[0], axis=0), edges[1], axis=1)
    return sums / np.multiply.outer(*counts)


def _scale_bar(pen: ImageDraw, font: FreeTypeFont | ImageFont, left: int, top: int, width: int, low: float, high: float) -> None:
    """A ramp from black to white with its two values."""
    first, last = _number(low), _number(high)
    start = left + math.ceil(font.getlength(first)) + 8
    stop = left + width - math.ceil(font.getlength(last)) - 8
    pen.text((left, top), first, fill=INK, font=font)
    pen.text((stop + 8, top), last, fill=INK, font=font)
    for x in range(start, stop):
        grey = 255 * (x - start) // max(1, stop - 1 - start)
        pen.line((x, top + 3, x, top + TEXT), fill=grey)
    pen.rectangle((start - 1, top + 2, stop, top + TEXT + 1), outline=FAINT)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
