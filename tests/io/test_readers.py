"""What `Reader.read` promises, for every backend: these bytes, or an error that says what is missing."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gpuio.errors import BackendUnavailable, ReadError
from gpuio.io.backends import BufferedBackend, DirectBackend, IOBackend, MMapBackend
from gpuio.io.filesystems import file_system
from tests.io.conftest import BACKENDS, open_descriptors
from tests.io.stand_in import room

Write = Callable[..., tuple[str, np.ndarray]]
Wanted = list[tuple[int, int, int]]         # file, first byte, bytes
SENTINEL = 0xA5


def place(wanted: Wanted, alignment: int, guard: int = 1) -> tuple[list[tuple[int, int, int, int]], list[int], int]:
    """Extents of `wanted` aligned outwards with gaps between them, where the wanted bytes will be, and the buffer's size."""
    extents, starts, at = [], [], 0
    for file, offset, size in wanted:
        low, high = offset // alignment * alignment, -(-(offset + size) // alignment) * alignment
        extents.append((file, low, high - low, at))
        starts.append(at + offset - low)
        at += -(-(high - low + guard) // alignment) * alignment
    return extents, starts, at


def random_wanted(rng: np.random.Generator, sizes: list[int], count: int) -> Wanted:
    wanted = []
    for _ in range(count):
        file = int(rng.integers(len(sizes)))
        first, last = sorted(int(v) for v in rng.integers(0, sizes[file] + 1, 2))
        wanted.append((file, first, last - first))
    return wanted + wanted[::3]         # duplicates, and not in the order of the file


def checked(backend: IOBackend, paths: list[str], contents: list[np.ndarray], wanted: Wanted) -> None:
    extents, starts, n_bytes = place(wanted, backend.alignment)
    into = room(backend, n_bytes)
    into[:] = SENTINEL
    with backend.open(paths, [len(c) for c in contents]) as reader:
        reader.read(extents, into)
    untouched = np.ones(n_bytes, dtype=bool)
    for (file, offset, size), (_, _, length, at), start in zip(wanted, extents, starts, strict=True):
        np.testing.assert_array_equal(into[start:start + size], contents[file][offset:offset + size])
        untouched[at:at + length] = False
    assert (into[untouched] == SENTINEL).all()


@pytest.mark.parametrize("seed", range(4))
def test_any_extents_of_odd_sized_files_arrive_and_nothing_else_is_written(backend: IOBackend, write: Write, seed: int) -> None:
    rng = np.random.default_rng(seed)
    files = [write(f"{i}", n, seed * 10 + i) for i, n in enumerate((1, 4095, 4097, 30011, 123457))]
    paths, contents = [f[0] for f in files], [f[1] for f in files]
    checked(backend, paths, contents, random_wanted(rng, [len(c) for c in contents], 60))


def test_a_whole_file_arrives(backend: IOBackend, write: Write) -> None:
    path, content = write("a", 300007)
    checked(backend, [path], [content], [(0, 0, len(content))])


def test_sizes_need_not_be_known(backend: IOBackend, write: Write) -> None:
    path, content = write("a", 9001)
    extents, starts, n = place([(0, 17, 8984)], backend.alignment)
    into = room(backend, n)
    with backend.open([path], [None]) as reader:
        reader.read(extents, into)
    np.testing.assert_array_equal(into[starts[0]:starts[0] + 8984], content[17:])


def test_a_growing_file_is_read_as_far_as_it_was(backend: IOBackend, write: Write) -> None:
    path, content = write("a", 5003)
    with open(path, "ab") as more:
        more.write(b"more" * 1000)
    checked(backend, [path], [content], [(0, 0, 4096), (0, 0, 4000)])


def test_no_extents_read_nothing(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 100)
    with backend.open([path], [100]) as reader:
        reader.read([], room(backend, 0))


def test_memoryviews_are_filled_too(write: Write) -> None:
    path, content = write("a", 100)
    into = bytearray(100)
    with BufferedBackend().open([path], [100]) as reader:
        reader.read([(0, 0, 100, 0)], memoryview(into))
    assert into == content.tobytes()


# -- what is not there ------------------------------------------------------------------------------------------------


def test_bytes_past_the_end_are_an_error_that_counts_them(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 10007)
    offset, size = (8192, 8192) if backend.alignment > 1 else (9000, 2000)
    with backend.open([path], [None]) as reader, pytest.raises(ReadError) as caught:
        reader.read([(0, offset, size, 0)], room(backend, size))
    message = str(caught.value)
    assert message.startswith(f"{path}: byte {offset}: expected ")
    assert f"found {10007 - offset}" in message and "has 10007 bytes" in message and "\n" not in message


def test_an_extent_that_begins_past_the_end_is_an_error(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 10007)
    with backend.open([path], [10007]) as reader, pytest.raises(ReadError, match="found 0"):
        reader.read([(0, 16384, 4096, 0)], room(backend, 4096))


def test_a_file_that_shrank_before_it_is_opened_is_an_error_even_if_the_extent_is_there(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 20000)
    os.truncate(path, 12288)
    with backend.open([path], [20000]) as reader, pytest.raises(ReadError, match=r"shrank.*20000.*12288"):
        reader.read([(0, 0, 4096, 0)], room(backend, 4096))


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(backend: IOBackend, write: Write) -> None:
    path, content = write("a", 20480)
    into = room(backend, 20480)
    with backend.open([path], [20480]) as reader:
        reader.read([(0, 0, 4096, 0)], into)
        os.truncate(path, 9000)
        with pytest.raises(ReadError, match=r"byte 8192: expected \d+ bytes, found 808; the file shrank from 20480 to 9000 bytes"):
            reader.read([(0, 8192, 12288, 0)], into)
        reader.read([(0, 0, 8192, 0)], into)
    np.testing.assert_array_equal(into[:8192], content[:8192])


def test_an_empty_file_holds_nothing(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 0)
    with backend.open([path], [0]) as reader, pytest.raises(ReadError, match="found 0"):
        reader.read([(0, 0, 4096, 0)], room(backend, 4096))


def test_a_missing_file_is_the_systems_error_and_names_it(backend: IOBackend, tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.here")
    with backend.open([path], [None]) as reader, pytest.raises(FileNotFoundError, match=r"nothing\.here"):
        reader.read([(0, 0, 4096, 0)], room(backend, 4096))


def test_a_file_that_may_not_be_read_is_a_permission_error(backend: IOBackend, write: Write) -> None:
    path, _ = write("secret", 100)
    os.chmod(path, 0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)       # root may read everything
    try:
        with backend.open([path], [100]) as reader, pytest.raises(PermissionError, match="secret"):
            reader.read([(0, 0, 4096, 0)], room(backend, 4096))
    finally:
        os.seteuid(me)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_not_a_regular_file_is_refused_without_waiting(backend: IOBackend, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    # A pipe or folder may refuse O_DIRECT by itself; either way it is one clear error.
    with pytest.raises((ReadError, BackendUnavailable), match=str(path)), backend.open([str(path)], [None]) as reader:
        reader.read([(0, 0, 4096, 0)], room(backend, 4096))


# -- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(0, 0, 8192, 0), (0, 0, 4096, 4096), (0, 0, 4096, 1 << 40)])
def test_an_extent_that_does_not_fit_the_buffer_is_refused(backend: IOBackend, write: Write, extent: tuple[int, int, int, int]) -> None:
    path, _ = write("a", 20000)
    with backend.open([path], [20000]) as reader, pytest.raises(ValueError, match="does not fit"):
        reader.read([extent], room(backend, 4096))


@pytest.mark.parametrize("into", [np.empty(4096, np.uint16), bytes(4096)], ids=["two-byte items", "read-only"])
def test_only_writable_bytes_are_filled(backend: IOBackend, write: Write, into: object) -> None:
    path, _ = write("a", 20000)
    with backend.open([path], [20000]) as reader, pytest.raises(ValueError, match="uint8"):
        reader.read([(0, 0, 4096, 0)], into)


def test_a_negative_offset_is_an_error(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 20000)
    with backend.open([path], [20000]) as reader, pytest.raises(ReadError, match="byte -4096"):
        reader.read([(0, -4096, 4096, 0)], room(backend, 4096))


def test_a_closed_reader_says_so(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 4096)
    reader = backend.open([path], [4096])
    reader.read([(0, 0, 4096, 0)], room(backend, 4096))
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read([(0, 0, 4096, 0)], room(backend, 4096))


def test_paths_and_sizes_must_be_as_many(backend: IOBackend, write: Write) -> None:
    path, _ = write("a", 4096)
    with pytest.raises(ValueError, match="1 paths"):
        backend.open([path], [])


def test_unbuffered_reads_name_the_alignment_they_need(write: Write, tmp_path: Path) -> None:
    if file_system(str(tmp_path)) == "tmpfs":
        pytest.skip("tmpfs accepts O_DIRECT at any alignment")
    path, _ = write("a", 20000)
    with DirectBackend().open([path], [20000]) as reader, pytest.raises(ReadError, match="multiples of 4096"):
        reader.read([(0, 1, 100, 0)], room(DirectBackend(), 4096))


def test_a_file_system_without_unbuffered_reads_is_named() -> None:
    path = "/proc/self/status"
    reason = DirectBackend().unavailable(path)
    assert reason is not None and path in reason and "buffered" in reason
    with pytest.raises(BackendUnavailable, match="O_DIRECT"):
        DirectBackend().open([path], [None])


# -- threads and processes --------------------------------------------------------------------------------------------


def test_threads_share_a_reader(backend: IOBackend, write: Write) -> None:
    files = [write(f"{i}", 20011 + i, i) for i in range(5)]
    paths, contents = [f[0] for f in files], [f[1] for f in files]
    with backend.open(paths, [len(c) for c in contents]) as reader:

        def work(seed: int) -> None:
            wanted = random_wanted(np.random.default_rng(seed), [len(c) for c in contents], 50)
            extents, starts, n = place(wanted, backend.alignment)
            into = room(backend, n)
            reader.read(extents, into)
            for (file, offset, size), start in zip(wanted, starts, strict=True):
                np.testing.assert_array_equal(into[start:start + size], contents[file][offset:offset + size])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(12)))


def test_closing_waits_for_no_one_and_disturbs_no_reading_thread(write: Write) -> None:
    path, content = write("a", 1 << 20)
    reader = BufferedBackend().open([path], [len(content)])
    into = np.zeros(1 << 20, np.uint8)
    started = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                started.set()
                reader.read([(0, 0, 1 << 20, 0)], into)
                np.testing.assert_array_equal(into, content)
        except ValueError as error:         # "closed": the only way out
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    reader.close()
    thread.join(20)
    assert not thread.is_alive() and len(errors) == 1 and "closed" in str(errors[0])


@pytest.mark.parametrize("backend", [name for name, backend in BACKENDS.items() if backend.memory == "host"], indirect=True)
def test_a_forked_process_opens_files_of_its_own(backend: IOBackend, write: Write, tmp_path: Path) -> None:
    path, content = write("a", 8192)
    into = room(backend, 8192)
    with backend.open([path], [8192]) as reader:
        reader.read([(0, 0, 8192, 0)], into)
        child = os.fork()
        if child == 0:
            try:
                inherited = open_descriptors(str(tmp_path))
                into[:] = 0
                reader.read([(0, 0, 8192, 0)], into)
                os._exit(0 if inherited == 0 and (into == content).all() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        into[:] = 0
        reader.read([(0, 0, 8192, 0)], into)
        np.testing.assert_array_equal(into, content)


def test_a_dropped_reader_closes_its_files(backend: IOBackend, write: Write, tmp_path: Path) -> None:
    path, _ = write("a", 8192)
    reader = backend.open([path], [8192])
    reader.read([(0, 0, 8192, 0)], room(backend, 8192))
    assert open_descriptors(str(tmp_path)) == (2 if backend.id == "gds" else 1)
    del reader
    assert open_descriptors(str(tmp_path)) == 0


def test_backends_pickle_small_and_stay_equal(backend: IOBackend) -> None:
    copy = pickle.loads(pickle.dumps(backend))
    assert copy == backend and type(copy) is type(backend) and len(pickle.dumps(backend)) < 200


def test_mapped_bytes_are_also_readable(write: Write) -> None:
    path, content = write("a", 9001)
    checked(MMapBackend(), [path], [content], [(0, 1, 9000)])
