"""Writes EMPAD data sets as its software does; the format is described in `gpuio.formats.empad`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from math import prod
from xml.sax.saxutils import quoteattr

import numpy as np

from gpuio.errors import DataSetException, ShapeError
from gpuio.newfile import new_file
from gpuio.synth._writing import Progress, exact, stacks

SIG_SHAPE = (128, 128)
#: Two rows after each frame.
FOOTER_ITEMS = 2 * 128
#: Frames are written a few at a time, whatever the size of the arrays that they come in.
CHUNK_FRAMES = 64
VERSIONS = ("0.51", "1.2.2")


def write(path: str, frames: Iterable[np.ndarray], *, nav_shape: Sequence[int], sig_shape: Sequence[int],
          progress: Progress | None = None, version: str = "1.2.2") -> list[str]:
    """Write a scan, or a series if there is one nav axis.

    Parameters
    ----------
    path
        ``folder/acquisition.xml``. The raw file beside it becomes ``scan_x<X>_y<Y>.raw``, or ``series_x<N>.raw``.
    frames
        Yields stacks of shape (n, 128, 128) whose values float32 holds exactly, all positions in C order.
    nav_shape
        (y, x), or (n,) for a series.
    sig_shape
        (128, 128).
    progress
        Called with the frames written and those in all.
    version
        Generation of the XML: 0.51 or 1.2.2.

    Returns
    -------
    list of str
        Paths of the XML and the raw file. Both appear at the end, or none.

    Raises
    ------
    ShapeError
        Frames do not have the promised shape or number, or not the detector's.
    DataSetException
        A value does not fit float32, or there is no such version.
    """
    nav = tuple(nav_shape)
    if tuple(sig_shape) != SIG_SHAPE:
        raise ShapeError(f"sig_shape is {tuple(sig_shape)}; expected {SIG_SHAPE}, the detector's")
    if len(nav) not in (1, 2) or min(nav) < 1:
        raise ShapeError(f"nav_shape is {nav}; expected (y, x), or (n,) for a series")
    if version not in VERSIONS:
        raise DataSetException(f"version {version!r}; expected one of {', '.join(VERSIONS)}")
    stem = os.path.splitext(path)[0]
    name = f"series_x{nav[0]}.raw" if len(nav) == 1 else f"scan_x{nav[1]}_y{nav[0]}.raw"
    raw = os.path.join(os.path.dirname(path), name)
    with new_file(f"{stem}.xml") as xml_file, new_file(raw) as raw_file:
        with open(xml_file, "w", encoding="utf-8") as text:
            text.write(_xml(os.path.basename(stem), name, nav, version))
        with open(raw_file, "wb") as out:
            done = 0
            for stack in stacks(frames, nav, SIG_SHAPE, progress):
                for first in range(0, len(stack), CHUNK_FRAMES):
                    part = exact(stack[first:first + CHUNK_FRAMES], "<f4").reshape(-1, prod(SIG_SHAPE))
                    # What the two rows hold is nowhere described; a number that is no count shows where they are mistaken for pixels.
                    footer = np.repeat(-1 - np.arange(done, done + len(part), dtype="<f4")[:, None], FOOTER_ITEMS, axis=1)
                    out.write(np.concatenate((part, footer), axis=1).tobytes())
                    done += len(part)
    return [f"{stem}.xml", raw]


def _xml(name: str, raw: str, nav: tuple[int, ...], version: str) -> str:
    """The XML of an acquisition."""
    is_scan, old = len(nav) == 2, version == VERSIONS[0]
    resolution = f"<scan_resolution_x>{nav[1]}</scan_resolution_x><scan_resolution_y>{nav[0]}</scan_resolution_y>" if is_scan else ""
    parts = ['<timestamp timestamp="1704067200.0" isoformat="2024-01-01T00:00:00"/>', f"<software_version>{version}</software_version>"]
    if old:
        parts.append(f"<type>{'scan' if is_scan else 'series'}</type>")
        parts.append(f"<pix_x>{nav[1]}</pix_x><pix_y>{nav[0]}</pix_y>" if is_scan else f"<count>{nav[0]}</count>")
    parts += [f"<raw_file filename={quoteattr(raw)}/>", "<exposure_time>1</exposure_time><post_exposure_time>0</post_exposure_time>"]
    if is_scan:
        scan = f"<scan_size>1.0</scan_size>{resolution}"
        parts += [f'<scan_parameters mode="{mode}">{scan}</scan_parameters>' for mode in ("search", "acquire")]
    else:
        parts.append(f"<scan_parameters><series_count>{nav[0]}</series_count></scan_parameters>")
    voltage, length = ("source.get_voltage", "optics.get_cameralength") if old else ("high_voltage", "nominal_camera_length")
    parts.append(f"<iom_measurements><{voltage}>300000.0</{voltage}><{length}>0.3</{length}></iom_measurements>")
    return f"<root name={quoteattr(name)}>{''.join(parts)}</root>\n"
