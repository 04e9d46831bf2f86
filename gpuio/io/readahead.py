"""Reading ahead: extents are read by a few threads while the caller does something else.

Cold storage reaches its rate only with several requests in flight, each of some MiB; whoever asks for a block gets it
cut into such pieces. How far ahead is the caller's choice: it owns the buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from gpuio.errors import ReadError
from gpuio.io.base import Extent, Reader

#: Bytes of a request; a multiple of every alignment. Half the blocks of the stream, so that a block is two requests.
PIECE_BYTES = 4 << 20
#: Small extents that share a request: more would leave the other threads idle, fewer cost too much per request.
PIECE_EXTENTS = 32


class Pending:
    """Bytes on their way."""

    def __init__(self, futures: Sequence[Future[None]] = (), error: Exception | None = None) -> None:
        self._futures, self._error = futures, error

    def wait(self) -> None:
        """Return when all bytes have arrived, or raise what went wrong. Either way nothing writes into the buffer any more.

        Raises
        ------
        ReadError, OSError
            Of the first piece that failed, or because reading was stopped by `ReadAhead.close`.
        """
        futures, self._futures = self._futures, ()
        for i, future in enumerate(futures):
            try:
                future.result()
            except CancelledError:
                self._error = self._error or ReadError("reading ahead was stopped before these bytes were read")
            except Exception as error:
                self._error = self._error or error
                for later in futures[i + 1:]:
                    later.cancel()
        if self._error is not None:
            raise self._error


class ReadAhead:
    """Reads in the background.

    Parameters
    ----------
    reader
        Stays the caller's; close it after this.
    threads
        Requests in flight. With 0, `submit` reads at once and `wait` only reports.
    piece_bytes
        Longer extents are cut; a multiple of the transport's alignment.
    """

    def __init__(self, reader: Reader, threads: int, piece_bytes: int = PIECE_BYTES) -> None:
        if piece_bytes < 1:
            raise ValueError(f"pieces of {piece_bytes} bytes; expected at least 1")
        self._reader, self._piece_bytes = reader, piece_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuio-read") if threads else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def submit(self, extents: Sequence[Extent], into: Any) -> Pending:
        """Begin to fill `into`, which must not be touched until `Pending.wait` has returned.

        Raises
        ------
        ValueError
            After `close`.
        """
        if self._pool is None:
            try:
                self._reader.read(extents, into)
            except Exception as error:
                return Pending(error=error)
            return Pending()
        try:
            return Pending([self._pool.submit(self._reader.read, piece, into) for piece in _pieces(extents, self._piece_bytes)])
        except RuntimeError as error:
            raise ValueError("reading ahead is closed") from error

    def close(self) -> None:
        """Drop what has not begun, finish what has, end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _pieces(extents: Sequence[Extent], limit: int) -> Iterator[list[Extent]]:
    """Requests of about `limit` bytes: long extents cut, short ones together."""
    piece: list[Extent] = []
    total = 0
    for file, offset, size, at in extents:
        for done in range(0, size, limit):
            count = min(limit, size - done)
            if piece and (total + count > limit or len(piece) == PIECE_EXTENTS):
                yield piece
                piece, total = [], 0
            piece.append((file, offset + done, count, at + done))
            total += count
    if piece:
        yield piece
