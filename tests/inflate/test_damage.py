"""Damaged and random streams: both engines say the same and write the same, within the chunk; neither reads beyond its bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuio.cpu_fallback import CpuEngine
from tests.decode.memory import before_unreadable_page
from tests.inflate.conftest import inflate
from tests.inflate.streams import OPTIONS, data, stored
from tests.kernels.cuda_on_host import why_no_sanitizers

ROOT = Path(__file__).parents[2]
NAMES = ("lzf", "lz4 in blocks", "bitshuffle lz4", "bitshuffle lz4 in blocks of 64", "bitshuffle lz4 fletcher32", "lzf shuffle", "gzip")


def damaged(chunk: bytes, rng: np.random.Generator) -> bytes:
    """A chunk with bytes changed, cut off, put in or left out; or random ones."""
    content = bytearray(chunk)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, max(1, len(content))))
        kind = rng.integers(0, 6)
        if kind < 3 and content:
            content[at] = rng.choice([0, 1, 15, 16, 31, 32, 240, 255, int(rng.integers(0, 256))])
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = rng.bytes(int(rng.integers(1, 5)))
        else:
            del content[at:at + int(rng.integers(1, 5))]
    return bytes(content) if rng.integers(0, 20) else rng.bytes(int(rng.integers(0, 200)))


def cases(name: str, count: int, n: int = 700) -> tuple[Any, list[bytes], int]:
    """Filters, damaged chunks, and bytes of a chunk."""
    rng = np.random.default_rng([11, NAMES.index(name)])
    truth = data("counts", n, "u2")
    filters, chunk, _ = stored(truth, **OPTIONS[name])
    return filters, [damaged(chunk, rng) for _ in range(count)], truth.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_say_and_write_the_same(engines: dict[str, Any], name: str) -> None:
    filters, chunks, n_bytes = cases(name, 250)
    results = [inflate(engine, filters, chunks, n_bytes, 2) for engine in engines.values()]
    statuses, contents = results[0]
    assert any(statuses)
    good = [c for c, s in zip(contents, statuses, strict=True) if not s]
    for other_statuses, other_contents in results[1:]:
        assert other_statuses == statuses
        assert [c for c, s in zip(other_contents, statuses, strict=True) if not s] == good


@pytest.mark.parametrize("name", NAMES)
def test_the_cpu_reads_no_byte_behind_a_chunk(name: str) -> None:
    filters, chunks, n_bytes = cases(name, 250)
    truth = data("counts", 700, "u2")
    chunks.append(stored(truth, **OPTIONS[name])[1])
    inflater, out = CpuEngine().inflater(filters, n_bytes, 2), np.zeros(n_bytes, np.uint8)
    for chunk in chunks:
        with before_unreadable_page(np.frombuffer(chunk, np.uint8)) as staged, before_unreadable_page(out) as guarded:
            inflater.bind(staged, guarded)(np.array([(0, len(chunk), 0, 0)]))
            last = guarded.copy()
    assert last.tobytes() == truth.tobytes()


@pytest.mark.parametrize("name", ["bitshuffle lz4", "lz4 shuffle", "gzip shuffle"])
def test_threads_inflate_at_once(name: str) -> None:
    truths = [data("counts", 9000, "u2", seed) for seed in range(60)]
    packed = [stored(t, **OPTIONS[name]) for t in truths]
    staged = np.frombuffer(b"".join(chunk for _, chunk, _ in packed), np.uint8)
    out = np.zeros(60 * 18000, np.uint8)
    sizes = np.array([len(chunk) for _, chunk, _ in packed])
    table = np.stack((np.cumsum(sizes) - sizes, sizes, np.zeros_like(sizes), 18000 * np.arange(60)), axis=1)
    call = CpuEngine().inflater(packed[0][0], 18000, 2).bind(staged, out)
    statuses: list[Any] = [None] * 4

    def work(k: int) -> None:
        for _ in range(3):
            statuses[k] = call(table[k::4])         # not contiguous

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(s.any() for s in statuses)
    assert np.array_equal(out.view("u2").reshape(60, 9000), truths)


@pytest.mark.skipif(why_no_sanitizers() is not None, reason=str(why_no_sanitizers()))
def test_sanitizers_find_nothing_in_the_kernels(tmp_path: Path) -> None:
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    env = {**os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.inflate.sanitized", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 100
