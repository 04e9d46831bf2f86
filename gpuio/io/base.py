"""The seam between the stream and storage: transports open readers, readers fill memory with extents.

An **extent** is a run of bytes of one file and where it goes: ``(file, offset, size, at)``, with `file` an index into the
opened paths, `offset` and `size` in bytes of the file, and `at` the position in the caller's buffer. Transports know
extents, never formats: what the bytes mean, and which of them are wanted, was settled before.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

#: ``(file, offset, size, at)``, see the module's docstring.
Extent = tuple[int, int, int, int]


class Reader(Protocol):
    """Opened files. Any number of threads may read at the same time.

    Descriptors are opened when first needed, at most some 64 are held at a time, and a forked process opens its own.
    """

    def read(self, extents: Sequence[Extent], into: Any) -> None:
        """Fill ``into[at:at + size]`` with the bytes of each extent.

        Parameters
        ----------
        extents
            In any order; duplicates and zero sizes are allowed. With an alignment above 1, the last extent of a file may
            reach past its end by less than the alignment; what `into` holds there afterwards is undefined.
        into : uint8 array or memoryview of bytes, in the transport's `memory`, C order, written

        Raises
        ------
        ReadError
            Bytes that should be there are not, or storage failed; names the file, the offset, what was expected and found.
        OSError
            The file cannot be opened.
        ValueError
            An extent does not fit into `into`, or the reader is closed.
        """

    def close(self) -> None:
        """Close the files; one that another thread is reading from, as soon as it is done. Closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Transport(Protocol):
    """A way of moving bytes. A value: no handles, cheap to copy and to pickle."""

    @property
    def id(self) -> str:
        """Short name: ``buffered``, ``mmap``, ``direct`` ..."""

    @property
    def memory(self) -> str:
        """Where bytes arrive: ``host`` or ``device``."""

    @property
    def alignment(self) -> int:
        """Offsets, sizes and positions of extents are multiples of this, and so is the address of the buffer."""

    @property
    def read_threads(self) -> int:
        """Threads that read ahead, where that pays, and so requests in flight; 0: none may."""

    @property
    def gives_views(self) -> bool:
        """Whether bytes can be used where they lie, in host memory; readers then have `map`, as `gpuio.io.mmap.MappedReader`."""

    def unavailable(self, path: str | None = None) -> str | None:
        """Why this transport cannot be used here, or with the file system of `path`; None if it can."""

    def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> Reader:
        """A reader of `paths`; touches no file yet unless it has to find out whether it works at all.

        Parameters
        ----------
        sizes
            Bytes of each file when its header was read, to notice files that shrink; None: not known.

        Raises
        ------
        BackendUnavailable
            With the reason that `unavailable` gives.
        """
