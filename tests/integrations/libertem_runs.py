"""One pass of LiberTEM over a data set with the algorithms under test, for gpuio's data sets and for LiberTEM's own alike.

As a script it loads files with LiberTEM's own readers, in a process of its own: its compiled readers are kept on disk under a
key that does not tell decoders apart, so loading them from there is switched off.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]


def masks(sig: tuple[int, ...]) -> np.ndarray:
    """float64[3, *sig] of small whole numbers, so that sums are exact in any order."""
    return np.random.default_rng(5).integers(-9, 10, (3, *sig)).astype("f8")


def run(ctx: Any, ds: Any, roi: np.ndarray | None = None, corrections: Any = None) -> dict[str, np.ndarray]:
    """All algorithms in one pass over float64 tiles."""
    from libertem.udf.com import CoMUDF
    from libertem.udf.masks import ApplyMasksUDF
    from libertem.udf.raw import PickUDF
    from libertem.udf.sum import SumUDF
    from libertem.udf.sumsigudf import SumSigUDF

    sig = tuple(ds.shape.sig)
    udfs = [
        PickUDF(), SumUDF(dtype="float64"), SumSigUDF(),
        ApplyMasksUDF(partial(masks, sig), use_sparse=False, mask_count=3, mask_dtype=np.dtype("f8")),
        CoMUDF.with_params(cy=3.0, cx=2.0),
    ]
    frames, total, sums, products, com = ctx.run_udf(ds, udfs, roi=roi, corrections=corrections)
    return {"frames": frames["intensity"].data, "sum": total["intensity"].data, "sumsig": sums["intensity"].raw_data,
            "masks": products["intensity"].raw_data, "com": com["raw_com"].raw_data}


def corrections_of(maps: dict[str, np.ndarray] | None) -> Any:
    """LiberTEM's corrections; None stays None."""
    from libertem.io.corrections import CorrectionSet

    return None if maps is None else CorrectionSet(**maps)


def with_own_readers(jobs: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Results of `run` with LiberTEM's readers.

    Parameters
    ----------
    jobs
        Each with `format`, `parameters` of load, `result` (the ``.npz`` file to write), and `maps`, an ``.npz`` file with a roi
        and corrections, or None.
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", __name__], input=json.dumps(jobs), text=True, capture_output=True,
                          check=False, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return [dict(np.load(job["result"])) for job in jobs]


def main() -> None:
    import numba.core.caching

    numba.core.caching.FunctionCache.load_overload = lambda *args: None
    numba.core.caching.FunctionCache.save_overload = lambda *args: None
    from libertem.api import Context

    with Context.make_with("inline") as ctx:
        for job in json.load(sys.stdin):
            maps = dict(np.load(job["maps"])) if job["maps"] else {}
            parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in job["parameters"].items()}
            ds = ctx.load(job["format"], **parameters)
            roi = maps.pop("roi", None)
            np.savez(job["result"], **run(ctx, ds, roi, corrections_of(maps or None)))


if __name__ == "__main__":
    main()
