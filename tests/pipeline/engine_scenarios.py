"""As `device_scenarios`, of the engine by itself: called on any stream, without a stream of tiles, as decoders of users' own may."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuio.engine import Blocks, Entries, RepairTable, TransposeTable
from gpuio.layout import Encoding, Filter, Piece, placement_table
from tests.pipeline.device_scenarios import Run

PIXELS = 35
VALUES = np.random.default_rng(1).integers(0, 60000, (4, PIXELS)).astype("u2")


def decoders_on_any_stream(run: Run) -> None:
    """Made on one stream, called on another, without a stream of tiles: as decoders of users' own may."""
    engine, consumer = run.engine, run.stream()
    blob = np.frombuffer(VALUES.tobytes() + bytes(-VALUES.nbytes % 16), np.uint8)
    starts = (2 * PIXELS * np.arange(4, dtype=np.int64))[:, None]
    dark = np.random.default_rng(2).normal(size=PIXELS).astype("f4")
    for dtype in ("f4", "c8"):
        staging = engine.staging(blob.size)
        staging.host[:blob.size] = blob
        staging.push(blob.size)
        with consumer:
            run.memory_used_before(1024)
            out = engine.empty((4, PIXELS), dtype)
        decode = engine.decoder(Encoding.of("u2"), placement_table([Piece(0, 0, PIXELS)]), PIXELS, dtype, dark=dark).bind(
            staging.device, starts, out)
        with consumer:
            decode(0, 4)
            run.keep(out.copy(), (VALUES.astype("f8") - dark).astype(dtype))
        del decode, out, staging
        run.memory_used_afterwards((1024, 512, 512, 256, 256))
        with consumer:
            run.memory_used_afterwards((1024, 512))


def repairs_on_any_stream(run: Run) -> None:
    table = RepairTable(np.array([3, 20]), np.array([0, 2, 4]), np.array([2, 4, 19, 21]))
    for dtype in ("f4", "f2"):
        values = (VALUES // 8).astype(dtype)
        expected, wide = values.copy(), values.astype("f8")
        expected[:, 3], expected[:, 20] = (wide[:, 2] + wide[:, 4]) / 2, (wide[:, 19] + wide[:, 21]) / 2
        for stream in (run.stream(), run.stream()):
            with stream:
                out = run.engine.upload(values)
                run.engine.repair(out, table)
                run.keep(out.copy(), expected)
            run.memory_used_afterwards((512, 512, 256))


def blocks_summed_on_any_stream(run: Run) -> None:
    for dtype in ("u4", "f2"):
        with run.stream():
            pixels = run.engine.upload(VALUES // 64)
            sums = run.engine.empty((4, 7), dtype)
            run.engine.bin(pixels, sums, Blocks(1, 7, 1, 5))
            run.keep(sums.copy(), (VALUES // 64).reshape(4, 7, 5).sum(axis=2).astype(dtype))
            del pixels, sums
            run.memory_used_afterwards((512, 256))


def transposing_on_any_stream(run: Run) -> None:
    table = TransposeTable(2 * np.arange(4), np.arange(4))
    piece = Piece(0, 0, 1, rows=5, row_src=7 * 8, row_pos=7, repeats=7, rep_src=8, rep_pos=1)
    for stream in (run.stream(), run.stream()):
        with stream:
            turned = run.engine.upload(np.ascontiguousarray(VALUES.T).view("u1").ravel())
            out = run.engine.empty((4, PIXELS), "u2")
            run.engine.transpose(turned, out, piece, table)
            run.keep(out.copy(), VALUES)
            del turned, out
        run.memory_used_afterwards((512, 512, 256))


def entries_added_on_any_stream(run: Run) -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        pixels, values = np.arange(PIXELS, dtype="u4"), rng.integers(1, 60000, PIXELS).astype("u4")
        with run.stream():
            staging = run.engine.staging(512)
            host = staging.host
            host[:16] = np.array([0, PIXELS], "i8").view("u1")
            host[16:16 + 4 * PIXELS], host[256:256 + 4 * PIXELS] = pixels.view("u1"), values.view("u1")
            staging.push(512)
            out = run.engine.zeros((1, PIXELS), "u4")
            run.engine.scatter(staging.device, out, Entries(1, PIXELS, 0, 16, 256, np.dtype("u4")))
            run.keep(out.copy(), values[None])
            del staging, host, out
        run.memory_used_afterwards((256, 256))


def chunks_unpacked_on_any_stream(run: Run) -> None:
    rng, size = np.random.default_rng(6), 2 * 4 * PIXELS
    for _ in range(3):
        values = rng.integers(0, 60000, (2, PIXELS)).astype("u4")
        with run.stream():
            staging = run.engine.staging(size)
            staging.host[:size] = np.ascontiguousarray(values.view("u1").reshape(2, PIXELS, 4).transpose(0, 2, 1)).ravel()
            staging.push(size)
            out = run.engine.empty((size,), "u1")
            inflate = run.engine.inflater((Filter("shuffle", (4,)),), size // 2, 4).bind(staging.device, out)
            inflate(np.array([[0, size // 2, 0, 0], [size // 2, size // 2, 0, size // 2]]))
            run.keep(out.copy(), values.view("u1").ravel())
            del staging, inflate, out
        run.memory_used_afterwards((512, 256, 256))


def an_output_made_on_one_stream_and_filled_on_another(run: Run) -> None:
    maker, other, cupy = run.stream(), run.stream(), run.device.cupy
    with maker:
        run.memory_used_before(4 * PIXELS)
        output = run.engine.output(PIXELS, "f4")
    with other:
        for number in range(3):
            values = np.random.default_rng(number).normal(size=PIXELS).astype("f4")
            with output.filling():
                output.array[...] = cupy.asarray(values)
            for stream in (maker, other):
                with stream:
                    output.take()
                    run.keep(output.array.copy(), values)
        output.release()


SCENARIOS: list[Callable[[Run], None]] = [
    decoders_on_any_stream, repairs_on_any_stream, blocks_summed_on_any_stream, transposing_on_any_stream,
    entries_added_on_any_stream, chunks_unpacked_on_any_stream,
    an_output_made_on_one_stream_and_filled_on_another,
]
