"""Inflates good and damaged chunks with kernels built by address and undefined-behaviour sanitizers.

Run by ``test_damage.py`` in a process of its own. Each chunk and each output is an array of its exact size, so that the red zones
around it are the guards.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.inflate.streams import OPTIONS, data, stored
from tests.inflate.test_damage import NAMES, cases
from tests.inflate.test_deflate import BAD, DEFLATE, GOOD, N, damaged
from tests.kernels.cuda_on_host import SANITIZERS, host_engine


def kinds(file: str) -> list[str]:
    """The kernels needed here; the compiler takes its time over each."""
    if file == "deflate":
        return ["deflate"]
    if file == "filters":
        return ["move", "fletcher32", "unshuffle<2>"]
    return ["walk<true>", "walk<false>", "streams<true>", "streams<false>", "bitshuffle<2, true, true>"]


def main(folder: Path) -> None:
    engine, done = host_engine(folder, *SANITIZERS, kinds=kinds), 0
    for name in NAMES:
        filters, chunks, n_bytes = cases(name, 25)
        truth = data("counts", 700, "u2")
        chunks.append(stored(truth, **OPTIONS[name])[1])
        inflater = engine.inflater(filters, n_bytes, 2)
        for chunk in chunks:
            out = np.empty(n_bytes, np.uint8)
            statuses = inflater.bind(np.frombuffer(chunk, np.uint8).copy(), out)(np.array([(0, len(chunk), 0, 0)]))
            done += 1
        assert statuses[0] == 0 and out.tobytes() == truth.tobytes()
    for streams, n_bytes in [([stream for stream, _ in BAD.values()] + [GOOD], N), *damaged(4, 2)]:
        inflater = engine.inflater(DEFLATE, n_bytes, 1)
        for k, stream in enumerate(streams):
            staged = np.empty(len(stream) + k % 4, np.uint8)[k % 4:]        # any place in a word
            staged[:] = np.frombuffer(stream, np.uint8)
            statuses = inflater.bind(staged, np.empty(n_bytes, np.uint8))(np.array([(0, len(stream), 0, 0)]))
            done += 1
        assert n_bytes != N or statuses[0] == 0
    print(done)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
