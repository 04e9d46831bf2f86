"""Scans that all tests of a session share; nothing writes to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integrations import scans


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], scans.Scan]:
    made: dict[str, scans.Scan] = {}

    def get(name: str) -> scans.Scan:
        if name not in made:
            made[name] = scans.write(Path(tmp_path_factory.mktemp(name)), name)
        return made[name]

    return get
