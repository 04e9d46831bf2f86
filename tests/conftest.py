"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from gpuio import config

# The same examples at every run of the continuous integration, so that a change is judged by itself; new ones elsewhere.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_configured() -> Iterator[None]:
    """What a user has set for all streams has no say in the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(config.VARIABLE, "")
        for name in config.VARIABLES.values():
            patch.delenv(name, raising=False)
        config.forget()
        yield
