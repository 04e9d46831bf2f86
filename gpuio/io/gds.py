"""GPUDirect Storage by way of kvikio: bytes go from the drive into device memory, past the memory of the host.

**What it needs** (NVIDIA's GPUDirect Storage documentation, and kvikio's own tests before it uses cuFile): kvikio, a driver,
the kernel module nvidia-fs, a file system that takes part, udev's database, where the drive's place on the PCI bus is found,
and kvikio not told to do without. If anything is missing, kvikio reads by way of host memory ("compatibility mode"), with
page-locked buffers of its own and without a word: slower than gpuio's own way, which reads the next bytes while it copies.
So `Machine.obstacles` is asked beforehand. Two things cannot be seen from here (`doubts`); then it is used if asked for.

**How it is used.** By kvikio's low-level read, on the threads that call: these are the stream's, so that the number of
requests in flight and their size are its choice for its own reads, and kvikio's process-wide defaults and its pool of threads
are neither used nor changed. Device memory is passed as slices, since cuFile takes an offset only into memory registered with
it. A read is complete when it returns, and is not ordered with the work on the device: memory comes from `Staging.landing`.

**Its traps.** A read past the end of the file fails, and says nothing of the bytes before: sizes are cut at the end.
Opening a pipe would wait, and errors name no file: each path is first opened and looked at by us. A file takes two
descriptors. Without the driver, mode OFF (`KVIKIO_COMPAT_MODE`) spins for ever when a file is opened: nothing is opened then.
Registered handles do not survive a fork, and closing them there may hang: a child forgets them.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, ClassVar, Self

from gpuio.engine import why_no_cuda
from gpuio.errors import BackendUnavailable, ReadError
from gpuio.io.base import Extent
from gpuio.io.descriptors import MAX_OPEN, OpenFiles
from gpuio.io.filesystems import NETWORK, drive, file_system

#: Bytes that direct transfers between drive and GPU are aligned to.
ALIGNMENT = 4096
#: File systems that take part by themselves, and those of a network that do if their own support is installed.
LOCAL = frozenset({"ext4", "xfs"})
TAKING_PART = frozenset({"beegfs", "gpfs", "lustre", "nfs", "nfs4", "wekafs"})
#: Values of KVIKIO_COMPAT_MODE; all others are "auto".
_MODES = {"on": "on", "true": "on", "yes": "on", "1": "on", "off": "off", "false": "off", "no": "off", "0": "off"}
_ERRORS = {os.strerror(code): code for code in errno.errorcode}


@dataclass(frozen=True, slots=True)
class Machine:
    """What GPUDirect Storage finds on a machine.

    Attributes
    ----------
    no_kvikio
        Why kvikio cannot be used; None if it can.
    mode
        What kvikio was told of its compatibility mode: ``"auto"``, ``"on"``, ``"off"``.
    has_nvidia_fs, has_udev
        The kernel module is loaded; udev's database can be read.
    """

    no_kvikio: str | None = None
    mode: str = "auto"
    has_nvidia_fs: bool = True
    has_udev: bool = True

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        return cls(_no_kvikio(), _mode(), os.path.exists("/proc/driver/nvidia-fs"), os.access("/run/udev/data", os.R_OK | os.X_OK))

    def obstacles(self, kind: str | None) -> Iterator[str]:
        """All that stands against it for files on a file system of this kind (None: on any); the least changeable first."""
        if kind is not None and kind not in LOCAL | TAKING_PART:
            where = "network file system" if kind in NETWORK else "file system"
            yield f"{where} {kind}: GPUDirect Storage reads {' and '.join(sorted(LOCAL))}; put the file on one of them"
        if self.no_kvikio is not None:
            yield self.no_kvikio
        if self.mode == "on":
            yield "kvikio is told to use its compatibility mode; unset KVIKIO_COMPAT_MODE"
        if not self.has_nvidia_fs:
            yield "the kernel module nvidia-fs is not loaded (no /proc/driver/nvidia-fs)"
        if not self.has_udev:
            yield "udev's database /run/udev/data cannot be read, so drives are not found on the PCI bus; containers need it mounted"


def doubts(kind: str, on: str | None) -> Iterator[str]:
    """What may stand against it and cannot be seen: it is not chosen then, but used if asked for.

    Parameters
    ----------
    kind, on
        File system and drive of the file, see `gpuio.io.filesystems`.
    """
    if kind in TAKING_PART:
        yield f"file system {kind}: it takes part only with its own GPUDirect support, which cannot be seen from here"
    elif on is not None and not on.startswith(("nvme", "md")):
        yield f"drive {on}: direct transfers need NVMe drives, or RAIDs of them"


def place(path: str) -> tuple[str, str | None]:
    """File system and drive of a file."""
    return file_system(os.path.dirname(os.path.realpath(path))), drive(path)


def refusal(path: str | None, compatibility: bool = False) -> str | None:
    """Why files cannot be read this way, in general or where `path` lies; None if they can.

    Parameters
    ----------
    compatibility
        kvikio may read by way of host memory.
    """
    if (reason := why_no_cuda(0)) is not None:
        return reason
    machine = Machine.here()
    reason = machine.no_kvikio or next(machine.obstacles(None if path is None else place(path)[0]), None)
    if reason is None or machine.no_kvikio or not compatibility:
        return reason
    return f"{reason}; and kvikio must not use its compatibility mode, unset KVIKIO_COMPAT_MODE" if machine.mode == "off" else None


def open_gds(paths: Sequence[str], sizes: Sequence[int | None], *, compatibility: bool = False) -> GDSReader:
    """A reader by GPUDirect Storage.

    Raises
    ------
    BackendUnavailable
        It cannot be used; one file of each folder is asked for.
    """
    one_of_each_folder = {os.path.dirname(path): path for path in paths}.values()
    reasons = (refusal(path, compatibility) for path in one_of_each_folder or (None,))
    if (reason := next(filter(None, reasons), None)) is not None:
        raise BackendUnavailable(f"the gds backend cannot be used: {reason}")
    return GDSReader(paths, sizes)


class GDSReader:
    """`Reader` into device memory.

    Parameters
    ----------
    paths, sizes
        As in `Transport.open`.
    max_open
        Files held open at most.
    """

    def __init__(self, paths: Sequence[str], sizes: Sequence[int | None], *, max_open: int = MAX_OPEN // 2) -> None:
        self._files = _CuFiles(paths, sizes, limit=max_open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; those that another thread reads from, when it is done."""
        self._files.close()

    def read(self, extents: Sequence[Extent], into: Any) -> None:
        """See `gpuio.io.base.Reader.read`; `into` is uint8[n], device memory that no work on the device uses."""
        if getattr(into, "dtype", None) != "uint8" or into.ndim != 1:
            raise ValueError(f"bytes are read into uint8[n] in device memory; found {type(into).__name__}")
        if not hasattr(into, "__cuda_array_interface__"):
            raise BackendUnavailable("the gds backend reads into the memory of a GPU, and this is memory of the host; "
                                     "take device='cuda', or another io_backend")
        with _current(into):
            for file, offset, size, at in extents:
                if size:
                    self._read(file, offset, size, into[at:at + size])

    def _read(self, file: int, offset: int, size: int, piece: Any) -> None:
        files = self._files
        path = files.paths[file]
        if len(piece) != size:
            raise ValueError(f"{path}: an extent of {size} bytes does not fit into the {len(piece)} bytes given for it")
        handle = files.borrow(file)
        try:
            known = files.sizes[file]
            assert known is not None        # settled when the file was opened
            if offset < 0:
                raise ReadError(f"{path}: byte {offset}: expected a place in the file")
            here = min(size, known - offset)
            due = max(size - ALIGNMENT + 1, here)
            got, why = (_fill(handle, offset, piece[:here]) if here > 0 else (0, None))
            if got >= due:
                return
            now = os.fstat(handle.fileno()).st_size
            if why is not None and now >= offset + here:
                raise _failed(why, path, offset, here)
            found = max(0, now - offset) if why else got
            shrank = f"the file shrank from {known} to {now} bytes since its header was read"
            raise ReadError(f"{path}: byte {offset}: expected {due} bytes, found {found}; "
                            + (shrank if now < known else f"the file has {now} bytes"))
        finally:
            files.give_back(file)


class _CuFiles(OpenFiles[Any]):
    """kvikio's handles."""

    #: Of the process that this one was forked from. Kept, because letting go would close them.
    _inherited: ClassVar[list[Any]] = []

    def open(self, file: int) -> Any:
        if (reason := why_no_cuda(0)) is not None:         # in a child of a process that uses CUDA, for one
            raise BackendUnavailable(reason)
        import kvikio

        path = self.paths[file]
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            self.check(file, os.fstat(descriptor))
            handle = kvikio.CuFile(path)
        except RuntimeError as error:
            raise ReadError(f"{path}: kvikio cannot open it: {_said(error)}") from error
        finally:
            os.close(descriptor)
        try:
            self.check(file, os.fstat(handle.fileno()))
        except BaseException:
            handle.close()
            raise
        return handle

    def shut(self, opened: Any) -> None:
        opened.close()

    def inherited(self, opened: Any) -> None:
        self._inherited.append(opened)


def _fill(handle: Any, offset: int, piece: Any) -> tuple[int, RuntimeError | None]:
    """Read all of `piece`; bytes that came, and what kvikio raised instead of giving more."""
    got = 0
    while got < len(piece):
        try:
            more = handle.raw_read(piece[got:], len(piece) - got, offset + got)
        except RuntimeError as error:
            if _said(error).endswith(os.strerror(errno.EINTR)):
                continue
            return got, error
        if more <= 0:
            break
        got += more
    return got, None


def _failed(error: RuntimeError, path: str, offset: int, size: int) -> ReadError:
    """kvikio's error with what it lacks: file, place and amount; and the system's number, if its words are known."""
    said = _said(error)
    words = said.rpartition(": ")[2]
    if words == "EOF":
        return ReadError(f"{path}: byte {offset}: expected {size} bytes, found an end of the file that is not there")
    failure = ReadError(f"{path}: byte {offset}: reading {size} bytes failed: {words if words in _ERRORS else said}")
    failure.errno = _ERRORS.get(words)
    return failure


def _said(error: BaseException) -> str:
    """What an error says, in one line, without the place in kvikio's sources."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\S.*? at: \S+:\d+: ", "", text)


@contextmanager
def _current(memory: Any) -> Iterator[None]:
    """Makes the device of CuPy memory the current one, and binds its context to the thread, which kvikio expects to find."""
    device: Any = getattr(memory, "device", None)
    if not hasattr(device, "use"):
        yield
        return
    with device:            # by itself it does nothing if the device's number is the current one, as it is in a new thread
        device.use()
        yield


@cache
def _no_kvikio() -> str | None:
    if importlib.util.find_spec("kvikio") is None:
        return "kvikio is not installed; install gpuio[gds13] or gpuio[gds12], whichever fits the driver"
    try:
        import kvikio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"kvikio is installed but cannot be imported: {_said(error)}"
    return None


def _mode() -> str:
    """As kvikio has it if it has been imported, else as it will be."""
    if (settings := sys.modules.get("kvikio.defaults")) is not None:
        return str(settings.get("compat_mode").name).lower()
    return _MODES.get(os.environ.get("KVIKIO_COMPAT_MODE", "auto").strip().lower(), "auto")
