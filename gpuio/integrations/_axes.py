"""Axes of a data set: names, and the calibrations that its files carry.

DigitalMicrograph and TIA files state them axis by axis (``nav_axes``, ``sig_axes``). Others have single numbers, of which
these are steps of pixels:

===================================  ===========================  ========  ======
key in the metadata                  formats                      axes      unit
===================================  ===========================  ========  ======
``scan_step_*_nm``                   blo                          scan      nm
``specimen_pixel_size_*_nm``         mrc of Direct Electron       scan      nm
``pixel_size_cm``                    blo, on the detector         detector  cm
``pixel_size_*_A``                   mrc, not of scans            detector  Å
===================================  ===========================  ========  ======

An axis that has another length than its files say, because the user gave another shape, has no calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpuio.base import DataSet

SCAN_STEPS = {"scan_step_{}_nm": "nm", "specimen_pixel_size_{}_nm": "nm"}
#: The cell of a scan's MRC file says nothing about diffraction.
PIXEL_STEPS = {"pixel_size_cm": "cm"}
IMAGE_STEPS = {"pixel_size_{}_A": "Å"}
#: Units as files spell them, and as others read them.
SPELLINGS = {"meters": "m"}


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a data set; pixel i of it lies at ``offset + i * scale``, in `unit`.

    Attributes
    ----------
    scale
        None: not calibrated.
    """

    name: str
    size: int
    is_nav: bool
    scale: float | None = None
    offset: float = 0.0
    unit: str = ""

    def reduced(self, first: int, size: int, factor: int) -> Axis:
        """The axis of `size` blocks of `factor` pixels each, from pixel `first` on; a block lies where its middle does."""
        if self.scale is None:
            return replace(self, size=size)
        return replace(self, size=size, scale=self.scale * factor, offset=self.offset + self.scale * (first + (factor - 1) / 2))

    @property
    def coordinates(self) -> np.ndarray | None:
        """float64[size]; None without a calibration."""
        return None if self.scale is None else self.offset + self.scale * np.arange(self.size)


def axes(ds: DataSet) -> list[Axis]:
    """The axes of a data set, nav axes first, slowest first: ``scan_y``, ``scan_x``, ``det_y``, ``det_x``.

    An axis that is the only one of its kind is ``scan`` or ``det``; before y there are z and w.
    """
    metadata = ds.metadata
    nav, sig, reduction = tuple(ds.shape.nav), ds.layout.sig_shape, ds.reduction
    steps = PIXEL_STEPS if len(nav) > 1 or "scan_type" in metadata else PIXEL_STEPS | IMAGE_STEPS
    scan = _group("scan", nav, True, metadata.get("nav_axes", ()), SCAN_STEPS, metadata)
    detector = _group("det", sig, False, metadata.get("sig_axes", ()), steps, metadata)
    if reduction is not None:
        kept = zip(reduction.origin, reduction.shape, reduction.factors, strict=True)
        detector = [axis.reduced(*how) for axis, how in zip(detector, kept, strict=True)]
    return scan + detector


def _group(prefix: str, shape: Sequence[int], is_nav: bool, stated: Sequence[Mapping[str, Any]], steps: Mapping[str, str],
           metadata: Mapping[str, Any]) -> list[Axis]:
    letters = [str(n) for n in range(len(shape))]
    letters[-4:] = "wzyx"[-len(shape):]
    found = []
    for number, (letter, size) in enumerate(zip(letters, shape, strict=True)):
        name = prefix if len(shape) == 1 else f"{prefix}_{letter}"
        axis = Axis(name, size, is_nav)
        if len(stated) == len(shape):
            entry = stated[number]
            if entry["size"] == size and (step := _step(entry.get("delta"))) is not None:
                unit = str(entry.get("unit", ""))
                axis = Axis(name, size, is_nav, step, float(entry["first"]), SPELLINGS.get(unit.lower(), unit))
        elif letter in "xy":
            for key, unit in steps.items():
                if (step := _step(metadata.get(key.format(letter)))) is not None:
                    axis = Axis(name, size, is_nav, step, 0.0, unit)
        found.append(axis)
    return found


def _step(value: Any) -> float | None:
    """A distance of pixels, or None if it can be none."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value != 0 else None
