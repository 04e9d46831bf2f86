"""Metadata as attributes that every kind of netCDF and Zarr can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def attributes(metadata: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Metadata as numbers, lists of numbers, and texts.

    Dicts are flattened (``dacs.threshold``), truth values become numbers, everything else becomes JSON.
    """
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= attributes(value, f"{name}.")
        elif value is not None:
            found[name] = _attribute(value)
    return found


def _attribute(value: Any) -> Any:
    if isinstance(value, (bool, int)):
        return int(value) if _fits(value) else str(value)
    if isinstance(value, (float, str)):
        return value
    if isinstance(value, (list, tuple)) and value and any(all(type(v) is kind for v in value) for kind in (int, float)):
        return list(value) if all(isinstance(v, float) or _fits(v) for v in value) else json.dumps(value)
    return json.dumps(value, default=str)


def _fits(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63
