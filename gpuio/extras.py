"""Optional packages: what to install if one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpuio.errors import BackendUnavailable


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an extra of gpuio in this context.

    Raises
    ------
    BackendUnavailable
        One of them cannot be imported; the message names the extra.
    """
    try:
        yield
    except ImportError as error:
        raise BackendUnavailable(f"{error}; install gpuio[{name}]") from error
