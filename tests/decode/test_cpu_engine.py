"""The CPU engine besides decoding: memory, what it refuses, repair, threads, and the cache of compiled loops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gpuio
from gpuio.cpu_fallback import CpuEngine
from gpuio.engine import RepairTable
from gpuio.errors import BackendUnavailable
from gpuio.layout import Encoding, Piece, placement_table
from tests.decode import cases as table
from tests.decode.cases import ROWS, assert_same, build, maps, reference

engine = CpuEngine()
U2 = Encoding.of("<u2")
ROW = placement_table([Piece(0, 0, 10)])


# ---- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [0, 1, 4095, 4096, 100003])
def test_staging_is_page_aligned_and_the_same_on_both_sides(n_bytes: int) -> None:
    staging = engine.staging(n_bytes)
    assert staging.host is staging.device
    assert staging.host.dtype == np.uint8 and staging.host.shape == (n_bytes,)
    assert n_bytes == 0 or staging.host.ctypes.data % 4096 == 0
    staging.push(n_bytes)


@pytest.mark.parametrize("shape, dtype", [((3, 5), "f4"), ((7,), "u1"), ((0, 4), "f8"), ((2, 3, 5), "c16")])
def test_arrays_are_of_the_shape_and_start_at_a_cache_line(shape: tuple[int, ...], dtype: str) -> None:
    empty, zeros = engine.empty(shape, dtype), engine.zeros(shape, dtype)
    assert empty.shape == zeros.shape == shape and empty.dtype == zeros.dtype == np.dtype(dtype)
    assert empty.flags.c_contiguous and empty.flags.writeable
    assert empty.size == 0 or empty.ctypes.data % 64 == 0
    assert not zeros.any()
    assert engine.upload(zeros) is zeros and engine.download(zeros) is zeros


def test_the_module_and_the_engine_do_not_import_numba() -> None:
    code = "import sys, gpuio.cpu_fallback as c; c.CpuEngine().staging(5); assert not {'numba', 'llvmlite'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(gpuio.__file__).parents[1])


def test_a_big_endian_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(BackendUnavailable, match="big-endian"):
        CpuEngine()


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding, error, message", [
    (Encoding("lz77", np.dtype("u1"), 1, 1), ValueError, "encoding 'lz77' is unknown; expected one of plain, swap"),
    (Encoding("mib_r12", np.dtype("u2"), 8, 8), ValueError, "groups of 8 bytes and 8 pixels; expected 8 and 4"),
    (Encoding("mib_r12", np.dtype("u8"), 8, 4), ValueError, "mib_r12 does not hold pixels of uint64; expected one of u2"),
    (Encoding("plain", np.dtype("M8[s]"), 8, 1), TypeError, "cannot be decoded"),
])
def test_encodings_that_are_not_known(encoding: Encoding, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        engine.decoder(encoding, ROW, 10, "f4")


def test_buffers_that_do_not_fit() -> None:
    decoder = engine.decoder(U2, ROW, 10, "f4")
    staged, starts, out = np.zeros(40, np.uint8), np.zeros((2, 1), np.int64), np.zeros((2, 10), "f4")
    for wrong_staged in (staged.view("u2"), staged[::2], staged.reshape(2, 20)):
        with pytest.raises(ValueError, match="staged is"):
            decoder.bind(wrong_staged, starts, out)
    with pytest.raises(TypeError, match="starts is int32; expected int64"):
        decoder.bind(staged, starts.astype(np.int32), out)
    with pytest.raises(ValueError, match="starts has shape"):
        decoder.bind(staged, starts.ravel(), out)
    with pytest.raises(TypeError, match="out is float64; expected float32"):
        decoder.bind(staged, starts, out.astype("f8"))
    with pytest.raises(ValueError, match="two axes in C order"):
        decoder.bind(staged, starts, np.asfortranarray(np.zeros((2, 10), "f4")))
    with pytest.raises(ValueError, match=r"expected .* writeable float32\[depth, 10\]"):
        decoder.bind(staged, starts, np.zeros((2, 11), "f4"))
    frozen = out.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        decoder.bind(staged, starts, frozen)
    of_part_1 = engine.decoder(U2, placement_table([Piece(0, 0, 10, part=1)]), 10, "f4")
    with pytest.raises(ValueError, match="2 parts or more"):
        of_part_1.bind(staged, starts, out)


@pytest.mark.parametrize("dtype", ["f4", "c8"])
@pytest.mark.parametrize("first, count, at", [(-1, 1, 0), (0, 3, 0), (2, 1, 0), (0, 2, 1), (0, 1, -1), (0, -1, 0), (0, 1, 2)])
def test_frames_that_are_not_there(first: int, count: int, at: int, dtype: str) -> None:
    out = np.full((2, 10), 3, dtype)
    decode = engine.decoder(U2, ROW, 10, dtype).bind(np.zeros(40, np.uint8), np.zeros((2, 1), np.int64), out)
    with pytest.raises(IndexError, match="there are 2 starts, and out holds 2 frames"):
        decode(first, count, at=at)
    assert (out == 3).all()


def test_starts_outside_of_the_staged_bytes_are_found_when_they_are_used() -> None:
    starts, out = np.array([[0], [20], [21]], np.int64), np.full((3, 10), 3, "f4")
    decode = engine.decoder(U2, ROW, 10, "f4").bind(np.zeros(40, np.uint8), starts, out)
    with pytest.raises(ValueError, match=r"frame 2 starts at \[21\]; expected starts from \[0\] to \[20\] in 40 staged bytes"):
        decode(1, 2)
    assert (out == 3).all()
    decode(0, 2)
    starts[1] = -1
    with pytest.raises(ValueError, match="frame 1 starts at"):
        decode(0, 2)


def test_a_start_may_lie_before_the_staged_bytes_if_only_later_ones_are_needed() -> None:
    """A box of the detector whose rows alone were read."""
    staged = np.arange(20, dtype=np.uint8)
    out = np.zeros((1, 10), "u2")
    decode = engine.decoder(U2, placement_table([Piece(1000, 0, 10)]), 10, "u2").bind(staged, np.array([[-1000]]), out)
    decode(0, 1)
    assert np.array_equal(out[0], staged.view("<u2"))


def test_starts_are_addresses_where_nothing_is_staged() -> None:
    case = build(ROWS[0], "i4", table.several_parts)
    starts = case.starts + case.staged.ctypes.data
    out = np.zeros((len(starts), case.frame_pixels), "f4")
    engine.decoder(case.encoding, case.placements, case.frame_pixels, "f4").bind(None, starts, out)(0, len(starts))
    assert_same(out, reference(case, "f4", None, None, np.zeros_like(out)))


def test_no_placements_and_no_frames_decode_to_nothing() -> None:
    out = np.full((2, 10), 3, "u2")
    none = np.zeros((0, 12), np.int64)
    engine.decoder(U2, none, 10, "u2").bind(np.zeros(0, np.uint8), np.zeros((2, 1), np.int64), out)(0, 2)
    engine.decoder(U2, ROW, 10, "u2").bind(np.zeros(20, np.uint8), np.zeros((0, 1), np.int64), out)(0, 0)
    assert (out == 3).all()


def test_buffers_live_as_long_as_the_call() -> None:
    row = ROWS[0]
    case = build(row, "u2", table.contiguous_rows)
    dark, gain = maps(case, "both f4")
    out = np.zeros((len(case.starts), case.frame_pixels), "f4")
    decode = engine.decoder(case.encoding, case.placements.copy(), case.frame_pixels, "f4", dark=dark.copy(), gain=gain.copy()).bind(
        case.staged.copy(), case.starts.copy(), out)
    churn = [np.full(case.staged.nbytes, 255, np.uint8) for _ in range(50)]
    decode(0, len(case.starts))
    assert len(churn) == 50
    assert_same(out, reference(case, "f4", dark, gain, np.zeros_like(out)))


# ---- repair ------------------------------------------------------------------------------------------------------------


def repair_table(shape: tuple[int, int], excluded: list[tuple[int, int]]) -> RepairTable:
    """Neighbours in the surrounding square that are inside and not excluded themselves, in C order."""
    neighbours, starts = [], [0]
    for y, x in sorted(excluded):
        around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        neighbours += [v * shape[1] + u for v, u in around if 0 <= v < shape[0] and 0 <= u < shape[1] and (v, u) not in excluded]
        starts.append(len(neighbours))
    pixels = [y * shape[1] + x for y, x in sorted(excluded)]
    arrays = [np.array(a, np.int64) for a in (pixels, starts, neighbours)]
    for a in arrays:
        a.flags.writeable = False               # a table is shared and never written
    return RepairTable(*arrays)


@pytest.mark.parametrize("excluded, repaired", [
    ([(0, 0)], {(0, 0): (1 + 4 + 5) / 3}),
    ([(0, 1)], {(0, 1): 3.4}),
    ([(1, 1), (1, 2)], {(1, 1): 34 / 7, (1, 2): 43 / 7}),
])
def test_repair_of_a_frame_worked_out_by_hand(excluded: list[tuple[int, int]], repaired: dict[tuple[int, int], float]) -> None:
    out = np.arange(16, dtype="f4").reshape(1, 16)
    expected = out.copy().reshape(4, 4)
    for at, value in repaired.items():
        expected[at] = np.float32(value)
        out.reshape(4, 4)[at] = np.nan          # its own value never matters
    engine.repair(out, repair_table((4, 4), excluded))
    assert np.array_equal(out.reshape(4, 4), expected)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
def test_repair_sums_in_table_order_and_rounds_once(dtype: str) -> None:
    rng = np.random.default_rng(11)
    shape, frames = (13, 17), 3
    out = (rng.standard_normal((frames, 221)) * 1000).astype(dtype)
    if np.dtype(dtype).kind == "c":
        out += (1j * rng.standard_normal(out.shape)).astype(dtype)
    excluded = [(int(i) // 17, int(i) % 17) for i in rng.choice(221, 30, replace=False)]
    excluded += [p for p in [(6, 6), (6, 7), (6, 8), (7, 6), (7, 7), (7, 8), (8, 6), (8, 7), (8, 8)] if p not in excluded]
    repairs = repair_table(shape, excluded)
    lonely = list(repairs.pixels).index(7 * 17 + 7)
    assert repairs.starts[lonely] == repairs.starts[lonely + 1], "one pixel has no neighbours and keeps its value"
    expected = out.copy()
    for f in range(frames):
        for i, pixel in enumerate(repairs.pixels.tolist()):
            near = repairs.neighbours[repairs.starts[i]:repairs.starts[i + 1]].tolist()
            if near:
                total = complex(0) if np.dtype(dtype).kind == "c" else 0.0
                for n in near:
                    total += out[f, n].item()
                expected[f, pixel] = np.array(total / len(near)).astype(dtype)
    engine.repair(out, repairs)
    assert_same(out, expected)


def test_repair_refuses_what_it_cannot_repair() -> None:
    good = repair_table((4, 4), [(1, 1)])
    with pytest.raises(TypeError, match="repair of uint16"):
        engine.repair(np.zeros((1, 16), "u2"), good)
    with pytest.raises(ValueError, match="in C order"):
        engine.repair(np.zeros((16, 2), "f4").T, good)
    with pytest.raises(ValueError, match="a neighbour lies outside of the frame of 10 pixels"):
        engine.repair(np.zeros((1, 10), "f4"), good)
    with pytest.raises(ValueError, match="a pixel lies outside"):
        engine.repair(np.zeros((1, 16), "f4"), RepairTable(np.array([-1]), np.array([0, 1]), np.array([3])))
    with pytest.raises(ValueError, match="do not divide"):
        engine.repair(np.zeros((1, 16), "f4"), RepairTable(np.array([1]), np.array([0, 9]), np.array([3])))


# ---- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_threads_share_a_decoder_and_a_bound_call(dtype: str) -> None:
    case = build(next(row for row in ROWS if row.name == "mib_r12"), "u2", table.quad, frames=41)
    dark, gain = maps(case, "both f4")
    frames = len(case.starts)
    expected = reference(case, dtype, dark, gain, np.zeros((frames, case.frame_pixels), dtype))
    out = np.zeros_like(expected)
    decoder = engine.decoder(case.encoding, case.placements, case.frame_pixels, dtype, dark=dark, gain=gain)
    decode = decoder.bind(case.staged, case.starts, out)
    for _ in range(3):
        out[:] = -1
        ready, errors = threading.Barrier(4), []

        def work(k: int, ready: threading.Barrier = ready, errors: list[BaseException] = errors) -> None:
            try:
                ready.wait()
                for f in range(k, frames, 4):
                    decode(f, 1, at=f)
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not errors
        assert_same(out, expected)


def test_calls_that_convert_share_the_scratch_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    frames, counting, made = rng.normal(0, 9, (6, 35)).astype("f2"), CpuEngine(), []
    zeros = counting.zeros
    monkeypatch.setattr(counting, "zeros", lambda shape, dtype: made.append(shape) or zeros(shape, dtype))
    decoder = counting.decoder(Encoding.of(np.dtype("f2")), placement_table([Piece(0, 0, 35)]), 35, "f4")
    for staged in (frames[:3], frames[3:]):             # as of a ring of staging buffers and outputs
        for _ in range(2):
            out = np.empty((3, 35), "f4")
            decoder.bind(staged.view("u1").ravel(), np.arange(3)[:, None] * 70, out)(0, 3)
            np.testing.assert_array_equal(out, staged.astype("f4"))
    assert made == [(3, 35)]


def test_other_threads_run_while_frames_are_decoded() -> None:
    frames, pixels = 400, 65536
    out = np.zeros((frames, pixels), "f8")
    decode = engine.decoder(Encoding.of("<u2"), placement_table([Piece(0, 0, pixels)]), pixels, "f8").bind(
        np.zeros(2 * pixels, np.uint8), np.zeros((frames, 1), np.int64), out)
    best = 0
    for _ in range(10):
        worker = threading.Thread(target=decode, args=(0, frames))
        worker.start()
        turns = 0
        while worker.is_alive():
            turns += 1
            time.sleep(0.0005)
        best = max(best, turns)
    assert best >= 5, "a loop that held the GIL would let this thread run once or twice"


# ---- the cache of machine code -----------------------------------------------------------------------------------------

DECODE = """
import sys, numpy as np
from gpuio.cpu_fallback import CpuEngine
from gpuio.layout import Encoding, Piece, placement_table
out = np.zeros((1, 4), 'u2')
decoder = CpuEngine().decoder(Encoding('mib_r12', np.dtype('u2'), 8, 4), placement_table([Piece(0, 0, 4)]), 4, 'u2')
decoder.bind(np.arange(8, dtype=np.uint8), np.zeros((1, 1), np.int64), out)(0, 1)
print(out[0].tolist())
"""
STRAIGHT, SWAPPED = [0x0607, 0x0405, 0x0203, 0x0001], [0x0706, 0x0504, 0x0302, 0x0100]


def run_decode(checkout: Path, cache: Path) -> list[int]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", DECODE], env=environment, cwd=checkout, check=True, capture_output=True, text=True)
    return [int(n) for n in done.stdout.strip(" []\n").split(",")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The parts of the package that decoding needs, to be edited."""
    package = Path(gpuio.__file__).parent
    copy = tmp_path / "checkout" / "gpuio"
    copy.mkdir(parents=True)
    for file in package.glob("*.py"):
        shutil.copy2(file, copy)
    ours = Path(sys.modules["gpuio.cpu_fallback"].__file__ or "").parent
    shutil.copytree(ours, copy / "cpu_fallback", ignore=shutil.ignore_patterns("__pycache__"))
    return copy.parent


def test_compiled_code_is_kept_and_an_edited_encoding_is_compiled_anew(checkout: Path, tmp_path: Path) -> None:
    """numba's own key knows neither globals nor other files: it would go on with the machine code of the old text."""
    cache = tmp_path / "cache"
    assert run_decode(checkout, cache) == STRAIGHT
    kept = sorted(cache.rglob("*.nbc"))
    assert kept
    assert run_decode(checkout, cache) == STRAIGHT
    assert sorted(cache.rglob("*.nbc")) == kept, "the second process compiled again"
    source = checkout / "gpuio" / "cpu_fallback" / "mib_r12.py"
    source.write_text(source.read_text().replace("swapped(self.step_bytes, 8)", "[k ^ 6 for k in range(self.step_bytes)]"))
    assert run_decode(checkout, cache) == SWAPPED
    assert len(list(cache.rglob("*.nbc"))) > len(kept)


def test_decoding_works_without_a_place_for_the_cache(checkout: Path, tmp_path: Path) -> None:
    """numba raises where no folder can be written: not the one it is told, nor beside the source, nor the user's."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocked / "cache"), "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1",
                   "HOME": str(blocked), "XDG_CACHE_HOME": str(blocked)}
    pycache = checkout / "gpuio" / "cpu_fallback" / "__pycache__"
    pycache.write_text("not a folder either")
    probe = DECODE + "from gpuio.cpu_fallback import _driver\nimport numba\ntry:\n    numba.njit(cache=True)(_driver.loop)\n" \
        "except RuntimeError as e:\n    print('refused:', 'cannot cache' in str(e))\n"
    done = subprocess.run([sys.executable, "-c", probe], env=environment, cwd=checkout, capture_output=True, text=True)
    assert done.stdout == f"{STRAIGHT}\nrefused: True\n", done.stderr


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_cache_is_no_obstacle(checkout: Path, tmp_path: Path, suffix: str) -> None:
    cache = tmp_path / "cache"
    run_decode(checkout, cache)
    for file in cache.rglob(f"*{suffix}"):
        file.write_bytes(file.read_bytes()[:7])
    assert run_decode(checkout, cache) == STRAIGHT
