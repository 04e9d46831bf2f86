"""Compiling ahead, and who is told about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import engine, warmup
from gpuio.errors import DataSetException


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU engine as in a process that has compiled nothing, on a machine that has not either."""
    from gpuio.cpu_fallback import _driver

    monkeypatch.setattr(_driver, "_compiled", {})
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
    assert [(r.device, r.encoding, r.pixels, r.dtype, r.corrected, r.compiled) for r in ready] == [
        ("cpu", "swap", "uint16", "uint16", False, True), ("cpu", "swap", "uint16", "float32", False, True),
        ("cpu", "swap", "uint16", "float32", True, True)]
    assert all(r.seconds > 0 for r in ready)
    assert engine.on_compile is told, "whoever was told before is told again"
    maps = np.random.default_rng(3).normal(1, 0.1, (2, 11, 7)).astype("f4")
    for options in ({}, {"dtype": "float32"}, {"dtype": "float32", "corrections": gpuio.CorrectionSet(dark=maps[0], gain=maps[1])}):
        next(ds.tiles(**options))
    assert told.names == []
    assert [r.compiled for r in warmup.warm(ds, "cpu")] == [False] * 3


def test_pixels_that_are_float32_already_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(4).normal(0, 1, (3, 7, 5)).astype("<f4"))
    ready = list(warmup.warm(gpuio.open(path, device="cpu"), "cpu"))
    assert [(r.dtype, r.corrected) for r in ready] == [("float32", False), ("float32", True)]


def test_samples_hold_every_encoding_of_their_formats_once() -> None:
    found = [(ds.format, ds.layout.encoding.name, str(ds.dtype)) for ds in warmup.samples(["mib", "k2is", "npy", "raw"])]
    assert found == [
        ("mib", "plain", "uint8"), ("mib", "swap", "uint16"), ("mib", "swap", "uint32"), ("mib", "mib_r1", "uint8"),
        ("mib", "mib_r6", "uint8"), ("mib", "mib_r12", "uint16"), ("mib", "mib_r24", "uint32"), ("k2is", "uint12_le", "uint16"),
        ("npy", "plain", "uint16"), ("npy", "plain", "uint32"), ("npy", "plain", "float32")]


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
    assert {writer for writer, _, _ in warmup.SAMPLES[name]} == {name}


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
