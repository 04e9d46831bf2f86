"""The examples of docs/interop.md run."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray

from tests.integrations import scans

TEXT = (Path(__file__).parents[2] / "docs" / "interop.md").read_text()
FIRST, *EXAMPLES = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the first example leaves behind, in a folder with a scan."""
    scans.write(tmp_path, "mib", sig_shape=(48, 48), kind="U16")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUIO_DEVICE", "cpu")
    left: dict[str, object] = {"xr": xarray}
    exec(FIRST, left)
    return left


@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: re.search(r"[\w.]+\.\w+", code)[0])
def test_an_example_runs(names, code):
    missing = [name for name in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE) if find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    exec(code, names)
    truth = np.asarray(names["ds"])
    if "image" in names:
        np.testing.assert_array_equal(names["image"], truth[..., 20:40, 20:40].sum(axis=(2, 3)))
    if "bright" in names:
        np.testing.assert_array_equal(names["bright"], truth[..., 20:40, 20:40].sum(axis=(2, 3)))
    if "virtual" in names:
        np.testing.assert_array_equal(names["virtual"].data, truth)
    if "signal" in names:
        np.testing.assert_array_equal(np.asarray(names["signal"].data), truth)
    if "whole" in names:
        np.testing.assert_array_equal(names["whole"], truth)
    if "patterns" in names:
        np.testing.assert_array_equal(np.asarray(names["patterns"]), truth[:len(names["patterns"])])
