"""Which frames are wanted, and where they go: sync offset and region of interest.

The one model: flat nav index i shows file frame ``k = i + sync_offset``, and has data if and only if
``0 <= k < image_count``; all other positions are blank. With a roi, the j-th selected position (counted over the
whole data set, blank ones included) has index j on the *compressed* nav axis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuio.errors import ShapeError
from gpuio.hostarray import host_array


def check_sync_offset(sync_offset: int, image_count: int) -> None:
    """Raise `ShapeError` unless ``-image_count < sync_offset < image_count``."""
    if not -image_count < sync_offset < image_count:
        raise ShapeError(f"sync_offset should be in ({-image_count}, {image_count}), which is (-image_count, image_count); "
                         f"it is {sync_offset}")


def sync_offset_info(sync_offset: int, image_count: int, nav_size: int) -> dict[str, int]:
    """Frames that a sync offset skips at the start and ignores at the end of the files, and blanks it inserts at both ends of the scan.

    Raises
    ------
    ShapeError
        The sync offset is out of range.
    """
    check_sync_offset(sync_offset, image_count)
    return {
        "frames_skipped_start": max(0, sync_offset),
        "frames_ignored_end": max(0, image_count - nav_size - sync_offset),
        "frames_inserted_start": max(0, -sync_offset),
        "frames_inserted_end": max(0, nav_size - image_count + sync_offset),
    }


def check_roi(roi: Any, nav_shape: Iterable[int] | None = None) -> np.ndarray:
    """A roi as a flat boolean array in host memory.

    Parameters
    ----------
    roi
        Array, list or sparse array; only its C order counts, not its shape. Other types than bool are cast with a warning.
    nav_shape
        Scan that it selects from; None leaves its size unchecked.

    Returns
    -------
    bool[nav]

    Raises
    ------
    ShapeError
        It has not one entry for each scan position.
    """
    size = None
    if nav_shape is not None:
        nav_shape = tuple(nav_shape)
        size = math.prod(nav_shape)
    mask = host_array(roi, "roi" if nav_shape is None else f"roi for the nav shape {nav_shape}", size).reshape(-1)
    if mask.dtype != bool:
        warnings.warn(f"roi of dtype {mask.dtype} is taken as boolean: entries other than zero are selected", stacklevel=3)
        mask = mask.astype(bool)
    return mask


def flat_indices(roi: Any, nav_shape: Iterable[int] | None = None) -> np.ndarray:
    """Flat nav indices that a roi selects, int64[n], ascending; arguments and errors as `check_roi`."""
    return np.flatnonzero(check_roi(roi, nav_shape)).astype(np.int64, copy=False)


def selected_frames(start: int, stop: int, sync_offset: int, image_count: int, roi: Any = None,
                    nav_shape: Iterable[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions that have data in a run of file frames.

    Parameters
    ----------
    start, stop
        File frames ``[start, stop)``, for a partition its first flat nav index plus `sync_offset` and so on; may reach
        below 0 and past `image_count`, where there are only blanks.
    sync_offset
        File frame minus flat nav index.
    image_count
        Frames that the files hold.
    roi : bool[nav], optional
        Positions wanted, of the whole data set.
    nav_shape
        To check the roi against.

    Returns
    -------
    compressed_nav : int64[n]
        Index on the flat nav axis, or on the compressed one with a roi; ascending.
    file_frame : int64[n]

    Raises
    ------
    ShapeError
        The roi has not one entry for each scan position.
    """
    first, end = max(0, start), min(stop, image_count)
    if roi is None:
        frames = np.arange(first, max(first, end), dtype=np.int64)
        return frames - sync_offset, frames
    frames = flat_indices(roi, nav_shape) + sync_offset
    low, high = np.searchsorted(frames, (first, max(first, end)))
    return np.arange(low, high, dtype=np.int64), frames[low:high]
