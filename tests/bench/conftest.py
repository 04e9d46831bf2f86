"""Measuring on a small scale: what is measured is tested here, never how fast anything is."""

from __future__ import annotations

import pytest

from gpuio import ceilings
from gpuio.bench import limits, stages


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and samples of a few hundred kilobytes."""
    for module in (limits, stages):
        monkeypatch.setattr(module, "SAMPLE_BYTES", 300_000)
    for module in (limits, ceilings):
        monkeypatch.setattr(module, "COPY_BYTES", 200_000)
