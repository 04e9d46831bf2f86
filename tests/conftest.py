"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples at every run of the continuous integration, so that a change is judged by itself; new ones elsewhere.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
