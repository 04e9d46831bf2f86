"""GPUDirect Storage: every reason against it by itself; the reader on what behaves as cuFile does, and on kvikio itself.

kvikio runs without a GPU as far as its own way of reading goes, see `tests.io.stand_in`.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio.engine import get_engine, why_no_cuda
from gpuio.errors import BackendUnavailable, ReadError
from gpuio.io import gds
from gpuio.io.backends import BufferedBackend, GDSBackend
from gpuio.io.gds import GDSReader, Machine
from gpuio.io.readahead import ReadAhead
from tests.io import stand_in
from tests.io.conftest import open_descriptors
from tests.io.stand_in import HostDevice, room
from tests.io.test_readers import SENTINEL, place, random_wanted

Write = Callable[..., tuple[str, np.ndarray]]
DEVICE = GDSBackend()


# ---- what stands against it ----------------------------------------------------------------------------------------------

OBSTACLES = [
    ("tmpfs", {}, "file system tmpfs: GPUDirect Storage reads ext4 and xfs; put the file on one of them"),
    ("overlay", {}, "file system overlay: GPUDirect Storage reads ext4 and xfs; put the file on one of them"),
    ("cifs", {}, "network file system cifs: GPUDirect Storage reads ext4 and xfs; put the file on one of them"),
    ("xfs", {"no_kvikio": "kvikio is on holiday"}, "kvikio is on holiday"),
    ("xfs", {"mode": "on"}, "kvikio is told to use its compatibility mode; unset KVIKIO_COMPAT_MODE"),
    ("xfs", {"has_nvidia_fs": False}, "the kernel module nvidia-fs is not loaded (no /proc/driver/nvidia-fs)"),
    ("lustre", {"has_udev": False}, "udev's database /run/udev/data cannot be read, so drives are not found on the PCI bus; "
                                    "containers need it mounted"),
]


@pytest.fixture
def ideal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``ideal(kind, **facts)``: a machine where nothing stands against it but what is named."""

    def make(kind: str = "ext4", drive: str | None = "nvme0n1", **facts: Any) -> None:
        monkeypatch.setattr(gds, "why_no_cuda", lambda device: None)
        monkeypatch.setattr(Machine, "here", lambda: Machine(**facts))
        monkeypatch.setattr(gds, "place", lambda path: (kind, drive))

    return make


@pytest.mark.parametrize(("kind", "facts", "reason"), OBSTACLES)
def test_each_obstacle_is_named_alone(ideal: Callable[..., None], kind: str, facts: dict[str, Any], reason: str) -> None:
    assert list(Machine(**facts).obstacles(kind)) == [reason]
    ideal(kind, **facts)
    assert DEVICE.unavailable("/some/file") == reason
    with pytest.raises(BackendUnavailable) as caught:
        DEVICE.open(["/some/file"], [None])
    assert str(caught.value) == f"the gds backend cannot be used: {reason}"
    assert DEVICE.unavailable() == (reason if facts else None), "without a file, its place does not count"


def test_without_obstacles_it_can_be_used_wherever_it_takes_part(ideal: Callable[..., None]) -> None:
    for kind in ("ext4", "xfs", "lustre", "nfs4"):
        ideal(kind, drive="vda")
        assert DEVICE.unavailable("/some/file") is None
    assert list(Machine().obstacles(None)) == []


def test_one_file_of_each_folder_is_asked_for(ideal: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    ideal()
    asked: list[str] = []
    monkeypatch.setattr(gds, "place", lambda path: (asked.append(path), ("ext4" if path < "/b" else "tmpfs", None))[1])
    with pytest.raises(BackendUnavailable, match="tmpfs"):
        DEVICE.open(["/a/1", "/a/2", "/b/3", "/b/4"], [None] * 4)
    assert asked == ["/a/2", "/b/4"]


def test_without_a_gpu_that_is_the_reason(ideal: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    ideal("tmpfs", no_kvikio="nor kvikio")
    monkeypatch.setattr(gds, "why_no_cuda", lambda device: "no driver")
    assert DEVICE.unavailable("/some/file") == GDSBackend(compatibility=True).unavailable() == "no driver"


@pytest.mark.parametrize(("kind", "facts", "reason"), OBSTACLES)
def test_compatibility_needs_kvikio_alone(ideal: Callable[..., None], kind: str, facts: dict[str, Any], reason: str) -> None:
    ideal(kind, **facts)
    assert GDSBackend(compatibility=True).unavailable("/some/file") == (reason if "no_kvikio" in facts else None)


def test_kvikio_never_opens_a_file_that_it_would_spin_on(ideal: Callable[..., None], fake: Any, write: Write) -> None:
    path, _ = write("a", 4096)
    ideal("tmpfs", mode="off")
    with pytest.raises(BackendUnavailable, match="tmpfs.*; and kvikio must not use its compatibility mode, unset KVIKIO_COMPAT_MODE"):
        GDSBackend(compatibility=True).open([path], [4096])
    assert fake.opened == []
    ideal(mode="off")
    assert DEVICE.unavailable(path) is None, "where nothing stands against it, off is what happens anyway"


@pytest.mark.parametrize(("kind", "drive", "said"), [
    ("ext4", "nvme1n1", None), ("xfs", "md127", None), ("ext4", None, None),
    ("ext4", "sda", "drive sda: direct transfers need NVMe drives, or RAIDs of them"), ("xfs", "dm-0", "drive dm-0: direct"),
    ("nfs4", None, "file system nfs4: it takes part only with its own GPUDirect support"),
    ("lustre", "sda", "file system lustre: it takes"),
])
def test_what_cannot_be_seen_is_a_doubt(kind: str, drive: str | None, said: str | None) -> None:
    found = list(gds.doubts(kind, drive))
    assert len(found) == (0 if said is None else 1)
    assert all(reason.startswith(str(said)) for reason in found)


def test_the_place_of_a_file_is_that_of_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    monkeypatch.setattr(gds, "file_system", lambda folder: f"of {folder}")
    monkeypatch.setattr(gds, "drive", lambda path: f"of {path}")
    assert gds.place(str(tmp_path / "link")) == (f"of {os.path.realpath(tmp_path / 'there')}", f"of {tmp_path / 'link'}")


# ---- the machine ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked_anew() -> Iterator[None]:
    gds._no_kvikio.cache_clear()
    yield
    gds._no_kvikio.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_facts_of_this_machine_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gds.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gds.os.path, "exists", lambda path: path == "/proc/driver/nvidia-fs")
    monkeypatch.setattr(gds.os, "access", lambda path, mode: path != "/run/udev/data")
    monkeypatch.setenv("KVIKIO_COMPAT_MODE", "Yes")
    assert Machine.here() == Machine("kvikio is not installed; install gpuio[gds13] or gpuio[gds12], whichever fits the driver", "on",
                                     True, False)
    monkeypatch.setattr(gds.os.path, "exists", lambda path: False)
    monkeypatch.setattr(gds.os, "access", lambda path, mode: True)
    assert (Machine.here().has_nvidia_fs, Machine.here().has_udev) == (False, True)


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("libcufile.so.0:\n  not found"), OSError("broken")])
def test_a_kvikio_that_cannot_be_imported_is_a_reason_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "kvikio":
                raise error

    monkeypatch.delitem(sys.modules, "kvikio", raising=False)
    monkeypatch.setattr(gds.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    reason = gds._no_kvikio()
    assert reason == f"kvikio is installed but cannot be imported: {' '.join(str(error).split())}"


@pytest.mark.parametrize(("value", "mode"), [
    ("ON", "on"), ("true", "on"), ("1", "on"), ("OFF", "off"), ("no", "off"), ("0", "off"), ("False ", "off"), ("AUTO", "auto"),
    ("x", "auto"),
])
def test_what_kvikio_was_told_is_found_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.delitem(sys.modules, "kvikio.defaults", raising=False)
    monkeypatch.setenv("KVIKIO_COMPAT_MODE", value)
    assert Machine.here().mode == mode
    monkeypatch.delenv("KVIKIO_COMPAT_MODE")
    assert Machine.here().mode == "auto"


def test_what_kvikio_was_told_later_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVIKIO_COMPAT_MODE", "ON")
    told = types.SimpleNamespace(get=lambda name: {"compat_mode": types.SimpleNamespace(name="OFF")}[name])
    monkeypatch.setitem(sys.modules, "kvikio.defaults", told)
    assert Machine.here().mode == "off"


# ---- the backend ---------------------------------------------------------------------------------------------------------


def test_the_backend_is_a_value_for_device_memory() -> None:
    assert (DEVICE.id, DEVICE.memory, DEVICE.alignment, DEVICE.read_threads) == ("gds", "device", 4096, 8)
    assert DEVICE == GDSBackend(16777216, 8, False) != GDSBackend(read_threads=3)
    assert GDSBackend.from_json({"id": "gds", "read_threads": 5}).read_threads == 5
    assert BufferedBackend().read_threads == 3
    with pytest.raises(ValueError, match="read_threads is 0; expected a positive number"):
        GDSBackend(read_threads=0)


def test_it_is_for_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GDSBackend.platform_supported()
    monkeypatch.setattr(sys, "platform", "win32")
    assert not GDSBackend.platform_supported()
    assert "operating system" in str(DEVICE.unavailable())


# ---- the reader, on one that behaves as cuFile does ----------------------------------------------------------------------


class CuFile:
    """Short at the end of the file, as cuFile, rather than an error; `faults` are raised, or are bytes read at most."""

    def __init__(self, kvikio: FakeKvikio, path: str) -> None:
        if kvikio.refuses is not None:
            raise kvikio.refuses
        self.kvikio, self.path, self.descriptor = kvikio, path, os.open(path, os.O_RDONLY)
        kvikio.opened.append(path)

    def fileno(self) -> int:
        return self.descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.kvikio.closed.append(self.path)
        self.descriptor = -1

    def raw_read(self, memory: Any, size: int, offset: int) -> int:
        assert isinstance(memory, HostDevice) and len(memory) == size > 0
        fault = self.kvikio.faults.pop(0) if self.kvikio.faults else size
        self.kvikio.reads.append((offset, size, self.kvikio.inside))
        if isinstance(fault, BaseException):
            raise fault
        return os.preadv(self.descriptor, (memory[:fault],), offset) if fault else 0


class FakeKvikio(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("kvikio")
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.reads: list[tuple[int, int, int]] = []
        self.faults: list[BaseException | int] = []
        self.refuses: BaseException | None = None
        self.inside = 0         # devices made current and not left

    def CuFile(self, path: str) -> CuFile:
        return CuFile(self, path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeKvikio:
    kvikio = FakeKvikio()
    monkeypatch.setitem(sys.modules, "kvikio", kvikio)
    monkeypatch.setattr(gds, "why_no_cuda", lambda device: None)
    return kvikio


def test_short_reads_go_on_where_they_ended(fake: FakeKvikio, write: Write) -> None:
    path, content = write("a", 10007)
    into = room(DEVICE, 12288)
    fake.faults = [100, RuntimeError(f"KvikIO failure at: /src/x.hpp:17: POSIX error on pread: {os.strerror(4)}"), 5000]
    with GDSReader([path], [10007]) as reader:
        reader.read([(0, 0, 12288, 0)], into)
    np.testing.assert_array_equal(into[:10007], content)
    assert [read[:2] for read in fake.reads] == [(0, 10007), (100, 9907), (100, 9907), (5100, 4907)], "cut at the end of the file"


def test_extents_go_to_their_slices_of_the_buffer(fake: FakeKvikio, write: Write) -> None:
    path, content = write("a", 20000)
    into = room(DEVICE, 16384)
    into[:] = 0xA5
    with GDSReader([path], [None]) as reader:
        reader.read([(0, 4096, 4096, 8192), (0, 0, 0, 4096), (0, 12288, 4096, 0)], into)
    np.testing.assert_array_equal(into[8192:12288], content[4096:8192])
    np.testing.assert_array_equal(into[:4096], content[12288:16384])
    assert (into[4096:8192] == 0xA5).all() and (into[12288:] == 0xA5).all()


def test_the_device_of_the_memory_is_the_current_one_while_it_is_read_into(fake: FakeKvikio, write: Write) -> None:
    path, content = write("a", 4096)

    class Device:
        entered = False

        def __enter__(self) -> None:
            self.entered = True

        def use(self) -> None:
            assert self.entered, "the caller's device comes back afterwards"
            fake.inside += 1

        def __exit__(self, *_: object) -> None:
            self.entered = False
            fake.inside -= 1

    class OnDevice(HostDevice):
        device = Device()

    into = room(DEVICE, 4096).view(OnDevice)
    with GDSReader([path], [4096]) as reader:
        reader.read([(0, 0, 4096, 0)], into)
        fake.faults = [RuntimeError("broken")]
        with pytest.raises(ReadError):
            reader.read([(0, 0, 4096, 0)], into)
    np.testing.assert_array_equal(into, content)
    assert [inside for *_, inside in fake.reads] == [1, 1] and fake.inside == 0


@pytest.mark.parametrize(("said", "expected", "code"), [
    ("KvikIO failure at: /a/b/posix_io.hpp:173: POSIX error on pread: Input/output error", "Input/output error", 5),
    ("cuFile error at: /a/b/file_handle.cpp:99: CU_FILE_INVALID_VALUE\n\n", "CU_FILE_INVALID_VALUE", None),
    ("", "RuntimeError", None),
])
def test_errors_of_kvikio_are_one_line_with_file_and_place(
        fake: FakeKvikio, write: Write, said: str, expected: str, code: int | None) -> None:
    path, _ = write("a", 20000)
    fake.faults = [4096, 4096, RuntimeError(said)]
    with GDSReader([path], [20000]) as reader, pytest.raises(ReadError) as caught:
        reader.read([(0, 0, 4096, 0), (0, 8192, 8192, 4096)], room(DEVICE, 12288))
    assert str(caught.value) == f"{path}: byte 8192: reading 8192 bytes failed: {expected}"
    assert caught.value.errno == code


def test_storage_that_gives_no_more_is_an_error_that_counts_bytes(fake: FakeKvikio, write: Write) -> None:
    path, _ = write("a", 20000)
    fake.faults = [700, 0]
    with GDSReader([path], [20000]) as reader, pytest.raises(ReadError) as caught:
        reader.read([(0, 4096, 8192, 0)], room(DEVICE, 8192))
    assert str(caught.value) == f"{path}: byte 4096: expected 8192 bytes, found 700; the file has 20000 bytes"


def test_a_file_that_shrinks_while_it_is_read_is_noticed(fake: FakeKvikio, write: Write) -> None:
    path, _ = write("a", 20000)
    with GDSReader([path], [20000]) as reader:
        reader.read([(0, 0, 4096, 0)], room(DEVICE, 4096))
        os.truncate(path, 9000)
        with pytest.raises(ReadError, match="byte 8192: expected 8192 bytes, found 808; the file shrank from 20000 to 9000 bytes"):
            reader.read([(0, 8192, 8192, 0)], room(DEVICE, 8192))


def test_a_file_that_kvikio_cannot_open_is_named(fake: FakeKvikio, write: Write) -> None:
    path, _ = write("a", 4096)
    fake.refuses = RuntimeError("KvikIO failure at: /a/b.cpp:3: Unable to open file: Too many open files")
    with GDSReader([path], [4096]) as reader, pytest.raises(ReadError) as caught:
        reader.read([(0, 0, 4096, 0)], room(DEVICE, 4096))
    assert str(caught.value) == f"{path}: kvikio cannot open it: Unable to open file: Too many open files"


def test_a_file_that_changed_before_kvikio_opened_it_is_noticed(
        fake: FakeKvikio, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write("a", 20000)
    real = fake.CuFile

    def slow(path: str) -> CuFile:
        os.truncate(path, 100)
        return real(path)

    monkeypatch.setattr(fake, "CuFile", slow)
    with GDSReader([path], [20000]) as reader, pytest.raises(ReadError, match=r"shrank: expected 20000 bytes.*found 100"):
        reader.read([(0, 0, 4096, 0)], room(DEVICE, 4096))
    assert fake.closed == [path]


@pytest.mark.timeout(20)
def test_kvikio_is_not_asked_to_open_what_it_would_wait_for(fake: FakeKvikio, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with GDSReader([str(tmp_path / "pipe")], [None]) as reader, pytest.raises(ReadError, match="pipe: expected a regular file"):
        reader.read([(0, 0, 4096, 0)], room(DEVICE, 4096))
    assert fake.opened == []


@pytest.mark.parametrize("into", [
    np.zeros(4096, np.uint8), bytearray(4096), room(DEVICE, 8192).view("u2"), room(DEVICE, 8192).reshape(2, -1)])
def test_only_bytes_of_a_device_are_filled(fake: FakeKvikio, write: Write, into: Any) -> None:
    path, _ = write("a", 4096)
    on_host = isinstance(into, np.ndarray) and not isinstance(into, HostDevice)
    message = "memory of the host; take device='cuda', or another io_backend" if on_host else "bytes are read into uint8"
    with GDSReader([path], [4096]) as reader, pytest.raises(BackendUnavailable if on_host else ValueError, match=message):
        reader.read([(0, 0, 4096, 0)], into)


def test_few_files_are_open_however_many_there_are(fake: FakeKvikio, write: Write, tmp_path: Path) -> None:
    paths = [write(f"{i:03}", 3, i)[0] for i in range(100)]
    into = room(DEVICE, 4096 * 100)
    with GDSReader(paths, [3] * 100) as reader:
        reader.read([(i, 0, 3, 4096 * i) for i in range(100)], into)
        assert open_descriptors(str(tmp_path)) == 32
        assert fake.closed == paths[:68]
    assert fake.opened == paths and sorted(fake.closed) == paths
    assert [into[4096 * i:4096 * i + 3].tobytes() for i in range(100)] == [Path(path).read_bytes() for path in paths]


def test_a_forked_process_neither_uses_nor_closes_the_handles_of_its_parent(
        fake: FakeKvikio, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = write("a", 4096)
    into, parent = room(DEVICE, 4096), os.getpid()
    monkeypatch.setattr(gds, "why_no_cuda", lambda device: None if os.getpid() == parent else "started before the fork")
    reader = GDSReader([path], [4096])
    reader.read([(0, 0, 4096, 0)], into)
    child = os.fork()
    if child == 0:
        try:
            try:
                reader.read([(0, 0, 4096, 0)], into)
                os._exit(1)
            except BackendUnavailable as error:
                reader.close()
                del reader
                os._exit(0 if str(error) == "started before the fork" and not fake.closed else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    into[:] = 0
    reader.read([(0, 0, 4096, 0)], into)
    reader.close()
    np.testing.assert_array_equal(into, content)
    assert fake.opened == fake.closed == [path]


# ---- the reader, on kvikio -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (reason := stand_in.why_not()) is not None:
        pytest.skip(reason)
    return stand_in.build(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("tests", [["tests/io/test_readers.py", "tests/io/test_faults.py", "-k", "gds"], ["tests/io/on_kvikio.py"]],
                         ids=["all tests of readers", "streams onto the simulated device"])
def test_kvikio_passes(driver: Path, tests: list[str]) -> None:
    done = stand_in.run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], driver)
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0 and "skipped" not in summary, done.stdout + done.stderr
    assert int(summary.split()[0]) > 20, done.stdout


def test_without_a_driver_kvikio_is_not_asked_to_open_anything(write: Write) -> None:
    path, _ = write("a", 4096)
    if (reason := GDSBackend(compatibility=True).unavailable(path)) is None:
        pytest.skip("this machine has all that it takes")
    with pytest.raises(BackendUnavailable) as caught:
        GDSBackend(compatibility=True).open([path], [4096])
    assert str(caught.value) == f"the gds backend cannot be used: {reason}"


# ---- on a GPU ------------------------------------------------------------------------------------------------------------

@pytest.fixture(params=[False, True], ids=["GPUDirect Storage", "compatibility allowed"])
def on_gpu(request: pytest.FixtureRequest, tmp_path: Path) -> GDSBackend:
    backend = GDSBackend(compatibility=request.param)
    if (reason := backend.unavailable(str(tmp_path / "file"))) is not None:
        pytest.skip(reason)
    return backend


@pytest.mark.gpu
@pytest.mark.timeout(120)
@pytest.mark.skipif(why_no_cuda() is not None, reason=f"no GPU: {why_no_cuda()}")
class TestOnAGpu:
    @pytest.mark.parametrize("seed", range(3))
    def test_any_extents_arrive_in_device_memory_and_nothing_else_is_written(self, on_gpu: GDSBackend, write: Write, seed: int) -> None:
        rng, engine = np.random.default_rng(seed), get_engine("cuda:0")
        files = [write(f"{i}", n, seed * 10 + i) for i, n in enumerate((1, 4095, 300_011, 20_000_003))]
        paths, contents = [f[0] for f in files], [f[1] for f in files]
        wanted = random_wanted(rng, [len(c) for c in contents], 40)
        extents, starts, n_bytes = place(wanted, on_gpu.alignment)
        staging = engine.staging(n_bytes)
        staging.host[:] = SENTINEL
        staging.push(len(staging.host))
        with staging.reading():
            engine.download(staging.device[:1])
        with on_gpu.open(paths, [len(c) for c in contents]) as reader, ReadAhead(reader, on_gpu.read_threads) as ahead:
            ahead.submit(extents, staging.landing).wait()
        into = engine.download(staging.device)
        untouched = np.ones(len(into), dtype=bool)
        for (file, offset, size), (_, _, length, at), start in zip(wanted, extents, starts, strict=True):
            np.testing.assert_array_equal(into[start:start + size], contents[file][offset:offset + size])
            untouched[at:at + length] = False
        assert (into[untouched] == SENTINEL).all()

    def test_streams_are_exact(self, on_gpu: GDSBackend, tmp_path: Path) -> None:
        rng, frames = np.random.default_rng(4), 701
        values = rng.integers(0, 65536, (frames, 127, 131), dtype=np.uint16)
        path = tmp_path / "scan.bin"
        path.write_bytes(b"".join(b"h" * 19 + frame.astype(">u2").tobytes() for frame in values))
        ds = gpuio.load("raw", path=path, dtype=">u2", nav_shape=(frames,), sig_shape=(127, 131), frame_header=19, device="cuda:0",
                        io_backend=on_gpu)
        for options in ({}, {"depth": 7, "memory": "4 MiB"}, {"roi": rng.random(frames) < 0.3, "depth": 5, "memory": "4 MiB"}):
            whole = np.concatenate([tile.data.get() for tile in ds.tiles(dtype="float32", **options)])
            np.testing.assert_array_equal(whole, values[options.get("roi", slice(None))].astype("f4"))
