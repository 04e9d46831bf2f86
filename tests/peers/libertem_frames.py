"""Frames as LiberTEM reads them, in a process of its own.

Its compiled readers are kept on disk under a key that does not tell decoders apart, so loading them from there is switched off.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

SCRIPT = """
import json, sys
import numba.core.caching, numpy as np
numba.core.caching.FunctionCache.load_overload = lambda *args: None
numba.core.caching.FunctionCache.save_overload = lambda *args: None
from libertem.api import Context
from libertem.udf.raw import PickUDF

with Context.make_with("inline") as ctx:
    for job in json.load(sys.stdin):
        try:
            parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in job["parameters"].items()}
            path = {"path": job["path"]} if "path" in job else {}
            ds = ctx.load(job["format"], **path, **parameters)
            frames = ctx.run_udf(ds, PickUDF(), roi=np.ones(ds.shape.nav, dtype=bool))["intensity"].data
            np.savez(job["result"], frames=frames, nav=tuple(ds.shape.nav), sig=tuple(ds.shape.sig))
        except BaseException as error:
            np.savez(job["result"], error=type(error).__name__ + ": " + str(error))
"""


def read(jobs: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Have LiberTEM read files.

    Parameters
    ----------
    jobs
        Each with `format`, `path` (unless `parameters` name files), `parameters` of load, and `result`, the ``.npz`` file to write.

    Returns
    -------
    list of dict
        `frames`, `nav`, `sig` of each; or `error`.
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], input=json.dumps(jobs), text=True, capture_output=True,
                          check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return [dict(np.load(job["result"])) for job in jobs]
