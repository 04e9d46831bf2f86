"""Host memory that unbuffered reads and vector loads can use."""

from __future__ import annotations

import numpy as np


def aligned_empty(n_bytes: int, alignment: int = 4096) -> np.ndarray:
    """Uninitialised memory at an address that is a multiple of `alignment`.

    Returns
    -------
    uint8[n_bytes], host memory
    """
    if n_bytes < 0 or alignment < 1:
        raise ValueError(f"{n_bytes} bytes aligned to {alignment} cannot be had")
    memory = np.empty(n_bytes + alignment - 1, dtype=np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start:start + n_bytes]
