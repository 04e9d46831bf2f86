"""The same files through gpuio, LiberTEM and NumPy: float32 tiles, one thread, page cache warm, one run, interleaved.

``python -m benchmarks.bench_peers`` prints the table; ``pytest benchmarks/bench_peers.py`` records it with pytest-benchmark.
Raw MB/s are packed bytes per CPU second. LiberTEM gets the tiling scheme that it negotiates for a UDF by tile, and applies, as
gpuio does, the corrections that the files bring. gpuio gives whole frames; of K2IS tiles that stay in the cache, as those of LiberTEM,
and whole frames as well. Names of cases as arguments run these only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

import gpuio
from benchmarks import quick
from benchmarks.measure import interleaved, record, show, words

RAW_BYTES = 48 << 20
#: Where opening is counted: as much as a small recording, so that the millisecond which it takes does not decide.
VIEW_BYTES = 256 << 20
#: Dark and gain reference of 256 x 256 pixels.
REFERENCES = dict(zip(("dark", "gain"), np.random.default_rng(2).gamma(4, 0.25, (2, 256, 256)).astype(np.float32), strict=True))
#: name, format, writer's options, bits a pixel of the detector, sig shape, least ratio over LiberTEM that we want to see
CASES: list[tuple[str, str, dict[str, Any], int, tuple[int, int], float]] = [
    ("mib r1", "mib", {"kind": "R1"}, 1, (256, 256), 5),
    ("mib r6", "mib", {"kind": "R6"}, 8, (256, 256), 3),
    ("mib r12", "mib", {"kind": "R12"}, 16, (256, 256), 2),
    ("mib r24", "mib", {"kind": "R24"}, 32, (256, 256), 6),
    ("quad r1", "mib", {"kind": "R1", "layout": "2x2"}, 1, (512, 512), 8),
    ("quad r6", "mib", {"kind": "R6", "layout": "2x2"}, 8, (512, 512), 6),
    ("quad r12", "mib", {"kind": "R12", "layout": "2x2"}, 16, (512, 512), 4),
    ("mib u16", "mib", {"kind": "U16"}, 16, (256, 256), 1.5),
    ("raw <u2", "raw", {"dtype": "<u2"}, 16, (256, 256), 2),
    ("raw >u2", "raw", {"dtype": ">u2"}, 16, (256, 256), 2),
    ("frms6", "frms6", {"dark": 100}, 16, (264, 264), 6),
    ("blo u8", "blo", {}, 8, (256, 256), 1),
    ("blo u16", "blo", {"bits": 16}, 16, (256, 256), 1),
    ("ser u16", "ser", {"dtype": "u2"}, 16, (256, 256), 1),
    ("mrc u16", "mrc", {"mode": 6}, 16, (256, 256), 1),
    ("seq u16 dark gain", "seq", REFERENCES, 16, (256, 256), 3),
    ("seq u8 dark gain", "seq", {"depth": 8, **REFERENCES}, 8, (256, 256), 3),
    ("tvips u16", "tvips", {}, 16, (256, 256), 1.7),
    ("frms6 bin 4", "frms6", {"dark": 100, "binning": 4}, 4, (264, 264), 6),
    ("k2is", "k2is", {"scan": False}, 12, (1860, 2048), 2),
    ("k2is whole frames", "k2is", {"scan": False}, 12, (1860, 2048), 1),
]


def make(folder: Path, case: tuple[str, str, dict[str, Any], int, tuple[int, int], float], size: int = RAW_BYTES
         ) -> tuple[str, str, dict[str, Any]]:
    """Write files of honest random counts into a folder; returns format, path and what to load it with."""
    from gpuio import synth

    _, fmt, options, bits, (height, width), _ = case
    n = max(8, size * 8 // (bits * height * width)) // 8 * 8
    rng = np.random.default_rng(1)
    top = {1: 2, 4: 4096, 12: 4096, 8: 64, 16: 4096, 32: 1 << 24}[bits]
    rows = options.get("binning", 1)        # of the detector that are one stored row

    def frames() -> Any:
        for _ in range(0, n, 8):
            yield np.repeat(rng.integers(0, top, (8, height // rows, width), dtype=np.uint32), rows, axis=1)

    nav = (n // 8, 8)
    target = folder / ("scan.gtg" if fmt == "k2is" else f"scan.{fmt}")
    paths = synth.write(fmt, str(target), frames(), nav_shape=nav, sig_shape=(height, width), **options)
    path = [path for path in paths if path.endswith((".raw", ".gtg", f".{fmt}"))][-1]
    load: dict[str, Any] = {"nav_shape": nav}
    if fmt == "raw":
        load |= {"sig_shape": (height, width), "dtype": options["dtype"]}
    return fmt, path, load


def gpuio_tiles(fmt: str, path: str, load: dict[str, Any], whole: bool) -> Callable[[], object]:
    """Of whole frames, or of parts that stay in the cache."""
    ds = gpuio.load(fmt, path=path, device="cpu", **load)

    def run() -> object:
        count = 0
        for tile in ds.tiles(dtype="float32", tiling_scheme=None if whole else ds.cache_scheme("float32")):
            count += tile.data.size
        assert count == ds.image_count * ds.shape.sig.size
        return count

    return run


def libertem_tiles(fmt: str, path: str, load: dict[str, Any]) -> Callable[[], object]:
    from libertem.api import Context
    from libertem.io.dataset.base import Negotiator
    from libertem.udf.sum import SumUDF

    ctx = Context.make_with("inline")
    backend: dict[str, Any] = {}
    if fmt == "mib" and gpuio.load(fmt, path=path).layout.encoding.name == "mib_r1":        # its default backend refuses 1-bit data
        from libertem.io.dataset.base import BufferedBackend

        backend = {"io_backend": BufferedBackend()}
    ds = ctx.load(fmt, path=path, **load, **backend)
    ds.set_num_cores(1)
    parts = list(ds.get_partitions())
    corrections = ds.get_correction_data()
    scheme = Negotiator().get_scheme(udfs=[SumUDF()], dataset=ds, read_dtype=np.float32, approx_partition_shape=parts[0].shape,
                                     corrections=corrections)

    def run() -> object:
        count = 0
        for part in ds.get_partitions():
            part.set_corrections(corrections)
            for tile in part.get_tiles(scheme, dest_dtype=np.float32):
                count += tile.size
        assert count == ds.shape.size
        return count

    return run


def raw_bytes(path: str) -> int:
    """Of the file that holds the pixels, or of all sectors of a K2 capture."""
    files = Path(path).parent.glob("*.bin") if path.endswith(".gtg") else [Path(path)]
    return sum(file.stat().st_size for file in files)


def measure(rounds: int = 7, names: Collection[str] = (), n_bytes: int = RAW_BYTES) -> list[dict[str, object]]:
    """One row a case; all of them, or those named."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        if names and case[0] not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            fmt, path, load = make(Path(folder), case, n_bytes)
            copy = np.ones(raw_bytes(path), dtype=np.uint8)
            target = np.empty_like(copy)
            times = interleaved({
                "gpuio": gpuio_tiles(fmt, path, load, case[0] != "k2is"),
                "libertem": libertem_tiles(fmt, path, load),
                "memcpy": lambda copy=copy, target=target: np.copyto(target, copy),
            }, rounds)
            size = raw_bytes(path) / 1e6
            rows.append({
                "case": case[0], "gpuio MB/s": size / times["gpuio"].cpu, "LiberTEM MB/s": size / times["libertem"].cpu,
                "ratio": times["libertem"].cpu / times["gpuio"].cpu, "wanted": float(case[5]),
                "share of memcpy": times["memcpy"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread,
            })
    return rows


def measure_views(rounds: int = 9, n_bytes: int = VIEW_BYTES) -> list[dict[str, object]]:
    """Tiles beside slices of `np.memmap`, opening included on both sides: every byte touched, copied out, or converted."""
    with tempfile.TemporaryDirectory() as folder:
        npy = str(Path(folder) / "scan.npy")
        np.save(npy, np.random.default_rng(1).integers(0, 4096, (n_bytes >> 17, 256, 256), dtype=np.uint16))
        frame = np.dtype([("pixels", "<f4", (128, 128)), ("footer", "V1024")])
        _, raw, _ = make(Path(folder), ("empad", "empad", {}, 32, (128, 128), 1), n_bytes)
        tvips_frame = np.dtype([("header", "V108"), ("pixels", "<u2", (256, 256))])
        _, tvips, _ = make(Path(folder), ("tvips", "tvips", {}, 16, (256, 256), 1), n_bytes)
        # Both convert as many frames at a time: those of a tile, which stays in the cache.
        wide = np.empty((gpuio.open(tvips, device="cpu").cache_scheme("float32").depth, 256, 256), dtype=np.float32)
        out = np.empty((64, 128, 128), dtype=np.float32)

        def npy_ours() -> int:
            return max(int(tile.data.max()) for tile in gpuio.open(npy, device="cpu").tiles())

        def npy_theirs() -> int:
            array = np.load(npy, mmap_mode="r")
            return max(int(array[i:i + 16].max()) for i in range(0, len(array), 16))

        def empad_ours() -> float:
            for tile in gpuio.open(raw, device="cpu").tiles(depth=len(out)):
                np.copyto(out[:tile.shape[0]], tile.data)
            return float(out.sum())

        def empad_theirs() -> float:
            array = np.memmap(raw, dtype=frame, mode="r")["pixels"]
            for i in range(0, len(array), len(out)):
                np.copyto(out[:len(array[i:i + len(out)])], array[i:i + len(out)])
            return float(out.sum())

        def tvips_ours() -> list[float]:
            return [float(tile.data[-1, -1, -1]) for tile in gpuio.open(tvips, device="cpu").tiles(dtype="float32")]

        def tvips_theirs() -> list[float]:
            array, last = np.memmap(tvips, dtype=tvips_frame, mode="r", offset=256)["pixels"], []
            for i in range(0, len(array), len(wide)):
                np.copyto(wide[:len(array[i:i + len(wide)])], array[i:i + len(wide)])
                last.append(float(wide[len(array[i:i + len(wide)]) - 1, -1, -1]))
            return last

        rows: list[dict[str, object]] = []
        cases: list[tuple[str, str, Callable[[], object], Callable[[], object]]] = [
            ("npy native", npy, npy_ours, npy_theirs), ("empad copied", raw, empad_ours, empad_theirs),
            ("tvips u16 to float32", tvips, tvips_ours, tvips_theirs),
        ]
        for name, path, ours, theirs in cases:
            assert ours() == theirs()
            times = interleaved({"gpuio": ours, "memmap": theirs}, rounds)
            size = raw_bytes(path) / 1e6
            rows.append({"case": name, "gpuio MB/s": size / times["gpuio"].cpu, "np.memmap MB/s": size / times["memmap"].cpu,
                         "ratio": times["memmap"].cpu / times["gpuio"].cpu, "spread": times["gpuio"].spread})
        return rows


def test_peers(benchmark: Any) -> None:
    """Small files; recorded as extra_info."""
    record(benchmark, lambda: measure(quick.ROUNDS, quick.PEERS, quick.BYTES), "case", ["share of memcpy", "ratio"])


def test_views(benchmark: Any) -> None:
    """The same of what needs no decoding."""
    record(benchmark, lambda: measure_views(quick.ROUNDS, quick.LARGE_BYTES), "case", ["ratio"])


if __name__ == "__main__":
    show(measure(names=words()), *([] if words() else [measure_views()]))
