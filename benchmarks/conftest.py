"""``pytest benchmarks`` on a small scale: a few rounds each, so that all of it takes minutes. Options on the command line count."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    given = " ".join(config.invocation_params.args)
    for option, quick in (("benchmark_max_time", 0.1), ("benchmark_min_rounds", 3), ("benchmark_calibration_precision", 2)):
        if "--" + option.replace("_", "-") not in given and hasattr(config.option, option):
            setattr(config.option, option, quick)
