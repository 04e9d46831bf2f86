"""Every filter as h5py and hdf5plugin write it: each byte comes back, nothing beside is touched."""

from __future__ import annotations

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import inflate_status
from tests.inflate.streams import OPTIONS, stored

SIZES = (1, 7, 8, 18, 131, 4099, 40009)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_byte_comes_back(name: str, dtype: str) -> None:
    engine, rng = CpuEngine(), np.random.default_rng(7)
    for n in SIZES:
        data = rng.poisson(3, n).astype(dtype)
        filters, chunk, mask = stored(data, **OPTIONS[name])
        assert engine.inflates(filters) is None
        out = rng.integers(0, 256, data.nbytes + 6, dtype=np.uint8)
        expected = out.copy()
        expected[3:-3] = data.view(np.uint8)
        inflate = engine.inflater(filters, data.nbytes, data.itemsize).bind(np.frombuffer(b"__" + chunk, dtype=np.uint8), out)
        statuses = inflate(np.array([[2, len(chunk), mask, 3]]))
        assert [inflate_status(int(code)) for code in statuses] == ["good"], n
        assert np.array_equal(out, expected), n
