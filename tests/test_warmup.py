"""Compiling ahead, and who is told about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
import gpuio.synth
from gpuio import engine, warmup
from gpuio.errors import DataSetException


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU engine as in a process that has compiled nothing, on a machine that has not either."""
    from gpuio.cpu_fallback import _driver, _sums

    monkeypatch.setattr(_driver, "_compiled", {})
    monkeypatch.setattr(_sums, "_compiled", {})
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def ds(tmp_path: Path) -> Any:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(2).integers(0, 4096, (3, 5, 11, 7)).astype(">u2"))
    return gpuio.open(path, device="cpu")


class Told:
    """What was compiled, and whether that is over."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.finished: list[str] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        self.names.append(what)
        yield
        self.finished.append(what)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    listener = Told()
    monkeypatch.setattr(engine, "on_compile", listener)
    return listener


def test_an_engine_tells_of_compiling_once_and_not_of_what_is_cached(ds: Any, fresh: None, told: Told, monkeypatch: Any) -> None:
    from gpuio.cpu_fallback import _driver

    next(ds.tiles(dtype="float32"))
    assert len(told.names) == 1
    assert told.names == told.finished
    assert told.names[0].startswith("swap_u2_f4_none")
    next(ds.tiles(dtype="float32"))
    monkeypatch.setattr(_driver, "_compiled", {})          # as a process that starts later
    next(ds.tiles(dtype="float32"))
    assert len(told.names) == 1


def test_after_warming_up_nothing_is_left_to_compile(ds: Any, fresh: None, told: Told) -> None:
    ready = list(warmup.warm(ds, "cpu"))
    assert [(r.device, r.encoding, r.pixels, r.use) for r in ready] == [
        ("cpu", "swap", "uint16", use) for use in ("uint16", "float32", "float32 with dark, gain and repair", "sums")]
    assert all(r.seconds > 0 and r.compiled > 0 for r in ready)
    assert engine.on_compile is told, "whoever was told before is told again"
    maps = np.random.default_rng(3).normal(1, 0.1, (2, 11, 7)).astype("f4")
    for options in ({}, {"dtype": "float32"}, {"dtype": "float32", "corrections": gpuio.CorrectionSet(dark=maps[0], gain=maps[1])}):
        next(ds.tiles(**options))
    ds.summary()
    assert told.names == []
    assert [r.compiled for r in warmup.warm(ds, "cpu")] == [0] * 4


RUN = """
import sys
from contextlib import nullcontext
import numpy as np
import gpuio
from gpuio import engine, preview
names = []
engine.on_compile = lambda what: names.append(what) or nullcontext()
for path in sys.argv[1:]:
    ds = gpuio.open(path, device="cpu")
    sig = tuple(ds.shape.sig)
    maps = gpuio.CorrectionSet(np.ones(sig), np.ones(sig), np.arange(np.prod(sig)).reshape(sig) == 5)
    for options in ({}, {"dtype": "float32"}, {"dtype": "float32", "corrections": maps}, {"corrections": gpuio.CorrectionSet()}):
        for tile in ds.tiles(threads=2, **options):
            pass
    ds[0, 1]
    preview.overview(*preview.summarise(ds))
    ds.summary(corrections=gpuio.CorrectionSet())
print(names)
"""


def test_a_process_that_comes_later_compiles_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(5).integers(1, 99, (6, 16, 8)).astype("u2")
    files = [gpuio.synth.write("hdf5", str(tmp_path / "scan.h5"), [frames], nav_shape=(2, 3), sig_shape=(16, 8), packing="gzip")[0],
             gpuio.synth.write("frms6", str(tmp_path / "scan.hdr"), [frames], nav_shape=(2, 3), sig_shape=(16, 8), dark=7)[0],
             str(tmp_path / "scan.npy")]
    np.save(files[-1], np.asfortranarray(frames.reshape(2, 3, 16, 8)))
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parent.parent)}

    def python(*arguments: str) -> str:
        return subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True).stdout

    compiled = [json.loads(python("-m", "gpuio", "warmup", path, "--device", "cpu", "--json"))["ready"] for path in files]
    assert all(sum(use["compiled"] for use in uses) for uses in compiled)
    assert python("-c", RUN, *files) == "[]\n"


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Names of loops that were asked for since it was last called; none is compiled, so that pixels mean nothing."""
    from gpuio.cpu_fallback import _driver, _scatter, _sums, _transpose

    names: set[str] = set()

    def jit(function: Any, signature: Any = None) -> Any:
        names.add(function.__qualname__)
        return lambda *arguments: -1

    def called() -> set[str]:
        found = set(names)
        names.clear()
        for made in caches:
            made.clear()
        return found

    caches: list[dict[Any, Any]] = []
    for module, cache in ((_driver, "_compiled"), (_sums, "_compiled"), (_transpose, "_variants"), (_scatter, "_loops")):
        caches.append({})
        monkeypatch.setattr(module, cache, caches[-1])
        monkeypatch.setattr(module, "jit", jit)
    return called


@pytest.mark.parametrize(("format", "options", "sig_shape"), [
    *(("mib", {"kind": kind}, (256, 256)) for kind in ("U08", "U16", "U32", "R1", "R6", "R12", "R24")),
    *(("mib", {"kind": kind, "layout": "2x2"}, (512, 512)) for kind in ("R1", "R6", "R12")),
    ("frms6", {"dark": 3}, (264, 264)), ("frms6", {"dark": 3, "binning": 4}, (264, 264)), ("k2is", {"scan": False}, (1860, 2048)),
    ("empad", {}, (128, 128)), ("seq", {"depth": 16}, (200, 300)), ("seq", {"depth": 8}, (200, 300)), ("tvips", {}, (256, 256)),
    ("blo", {}, (144, 144)), ("blo", {"bits": 16}, (144, 144)), ("ser", {"dtype": "u2"}, (256, 256)), ("mrc", {"mode": 6}, (256, 256)),
    ("dm", {"dtype": "u2"}, (256, 256)), ("dm", {"dtype": "u2", "transposed": True}, (64, 48)), ("npy", {"dtype": ">u2"}, (512, 512)),
    ("npy", {"dtype": "<f4", "fortran_order": True}, (64, 48)), ("hdf5", {"dtype": "u2", "packing": "gzip"}, (192, 192)),
    ("raw_csr", {"dtype": "u2"}, (64, 48)),
], ids=str)
def test_usual_files_of_a_format_need_no_more_than_its_samples(format: str, options: dict[str, Any], sig_shape: tuple[int, int],
                                                               tmp_path: Path, needed: Callable[[], set[str]]) -> None:
    for sample in warmup.samples([format]):
        list(warmup.warm(sample, "cpu"))
    warmed = needed()
    frames = np.random.default_rng(6).integers(0, 2, (6, *sig_shape)).astype("u1")
    if "binning" in options:
        frames[:] = frames[:, :1]
    extension = {"tvips": "_000.tvips", "frms6": ".hdr", "k2is": ".gtg", "raw_csr": ".toml", "hdf5": ".h5", "dm": ".dm4"}
    paths = gpuio.synth.write(format, str(tmp_path / f"scan{extension.get(format, '.' + format)}"), [frames], nav_shape=(2, 3),
                              sig_shape=sig_shape, **options)
    ds = gpuio.open(next((path for path in paths if path.endswith((".hdr", ".gtg", ".xml"))), paths[0]), device="cpu")
    maps = gpuio.CorrectionSet(np.ones(sig_shape, "f4"), np.ones(sig_shape, "f4"))
    for asked in ({}, {"dtype": "float32"}, {"dtype": "float32", "corrections": maps}, {"corrections": gpuio.CorrectionSet()}):
        for _ in ds.tiles(**asked):
            pass
    ds.summary()
    ds.summary(corrections=gpuio.CorrectionSet())
    found = needed()
    assert found and found <= warmed, found - warmed


def test_pixels_that_are_float32_already_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(4).normal(0, 1, (3, 7, 5)).astype("<f4"))
    ready = list(warmup.warm(gpuio.open(path, device="cpu"), "cpu"))
    assert [r.use for r in ready] == ["float32", "float32 with dark, gain and repair", "sums"]


def test_corrections_of_the_file_are_made_ready_as_well(tmp_path: Path) -> None:
    frames = np.random.default_rng(7).integers(1, 99, (2, 16, 8)).astype("u2")
    path = gpuio.synth.write("frms6", str(tmp_path / "scan.hdr"), [frames], nav_shape=(1, 2), sig_shape=(16, 8), dark=7)[0]
    uses = [r.use for r in warmup.warm(gpuio.open(path, device="cpu"), "cpu")]
    assert uses[-2:] == ["float32 with the file's corrections", "sums with the file's corrections"]


def test_of_a_scan_with_navigation_fastest_no_pass_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.asfortranarray(np.random.default_rng(8).integers(1, 99, (5, 7, 6, 4)).astype(">u2")))
    ds = gpuio.open(path, device="cpu")
    path.unlink()           # what is read now is something else
    assert [(r.encoding, r.pixels) for r in warmup.warm(ds, "cpu")] == [("swap", "uint16")] * 4


def test_samples_hold_every_kind_of_pixels_of_their_formats_once() -> None:
    found = [(ds.format, ds.layout.encoding.name, str(ds.dtype), ds.shape.sig[0])
             for ds in warmup.samples(["mib", "raw", "npy", "ser"])]
    packed = [("mib_r1", "uint8"), ("mib_r6", "uint8"), ("mib_r12", "uint16")]
    assert found[:10] == [
        ("mib", "plain", "uint8", 256), ("mib", "swap", "uint16", 256), ("mib", "swap", "uint32", 256),
        *(("mib", *kind, 256) for kind in packed), ("mib", "mib_r24", "uint32", 256), *(("mib", *kind, 512) for kind in packed)]
    plain = [("plain", "uint8"), ("plain", "uint16"), ("swap", "uint16"), ("plain", "uint32"), ("plain", "float32")]
    assert found[10:] == [("npy", *kind, side) for side in (128, 1024) for kind in plain] + [
        ("npy", "plain", dtype, 64) for dtype in ("uint8", "uint16", "float32")]


def test_samples_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for ds in warmup.samples(["npy"]):
        assert Path(ds.files[0]).is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused_before_anything_is_made() -> None:
    with pytest.raises(DataSetException, match="'betamax' is unknown; expected one of mib"):
        next(warmup.samples(["npy", "betamax"]))


@pytest.mark.parametrize("name", warmup.SAMPLES)
def test_samples_are_of_formats_that_there_are(name: str) -> None:
    assert name in gpuio.formats()
    assert {writer for writer, _, _ in warmup.SAMPLES[name]} <= {name, "npy"}


@pytest.mark.parametrize(("reason", "expected"), [(None, ["cpu", "cuda:0"]), ("no driver", ["cpu"])])
def test_a_gpu_is_warmed_up_where_there_is_one(monkeypatch: pytest.MonkeyPatch, reason: str | None, expected: list[str]) -> None:
    monkeypatch.setattr(engine, "why_no_cuda", lambda number: reason)
    assert warmup.devices() == expected


def test_the_cuda_engine_tells_of_each_kernel_it_has_not_had(told: Told) -> None:
    from gpuio.kernels import CudaEngine
    from gpuio.layout import Encoding, placement_table, plain_pieces

    class Nothing:
        name, xp = "cuda:0", np

        def active(self) -> Any:
            return contextmanager(lambda: iter([None]))()

        computing = active

        def kernel(self, source: str, expression: str) -> Any:
            assert told.names[-1] == expression and expression not in told.finished
            return print

    maker = CudaEngine(runtime=Nothing())  # type: ignore[arg-type]
    for dtype in ("f4", "f4", "u2"):
        maker.decoder(Encoding.of(">u2"), placement_table(plain_pieces((11, 7), 14)), 77, dtype)
    assert told.names == told.finished == ["decode<swap<u16>, f32, f32, 0>", "decode<swap<u16>, u16, f32, 0>"]
