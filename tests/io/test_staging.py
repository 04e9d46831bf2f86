"""Aligned memory."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.io.staging import aligned_empty


@pytest.mark.parametrize("alignment", [1, 64, 4096, 2 << 20])
@pytest.mark.parametrize("n_bytes", [0, 1, 4095, 100003])
def test_memory_has_the_size_and_the_alignment_asked_for(n_bytes: int, alignment: int) -> None:
    memory = aligned_empty(n_bytes, alignment)
    assert memory.shape == (n_bytes,) and memory.dtype == np.uint8 and memory.flags.writeable and memory.flags.c_contiguous
    assert n_bytes == 0 or memory.ctypes.data % alignment == 0


@pytest.mark.parametrize(("n_bytes", "alignment"), [(-1, 4096), (10, 0)])
def test_impossible_memory_is_refused(n_bytes: int, alignment: int) -> None:
    with pytest.raises(ValueError, match="cannot be had"):
        aligned_empty(n_bytes, alignment)
