"""Settings for all streams: the file, the environment over it, arguments over both; broken ones are one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import config
from gpuio.base import BufferedBackend
from gpuio.config import StreamSettings
from gpuio.errors import ConfigError, GpuioError
from gpuio.io.backends import GDSBackend, IOBackend

WORDS = '[stream]\nthreads = 2\nmemory = "32 MiB"\ntile_bytes = "64 KiB"\nblock_bytes = 65536\ntransport = "buffered"\n'


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    config.forget()
    yield
    config.forget()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config file, not there yet."""
    monkeypatch.setenv(config.VARIABLE, str(tmp_path / "gpuio.toml"))
    return tmp_path / "gpuio.toml"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(31).integers(1, 60000, (13, 17, 31, 37)).astype(">u2")


@pytest.fixture
def scan(tmp_path: Path, pixels: np.ndarray) -> Any:
    np.save(tmp_path / "scan.npy", pixels)
    return gpuio.open(tmp_path / "scan.npy", device="cpu")


def test_a_file_sets_every_key(file: Path) -> None:
    file.write_text(WORDS)
    assert config.stream() == StreamSettings(2, 32 << 20, 64 << 10, 65536, "buffered")


def test_variables_override_the_file_and_arguments_both(file: Path, scan: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(WORDS)
    found = scan.explain(dtype="float32")
    assert (found.decode_threads, found.memory_budget, found.transport) == (2, 32 << 20, "buffered")
    assert found.tile_bytes == (64 << 10) // (31 * 37 * 4) * 31 * 37 * 4
    assert found.why.startswith("configured; ")
    monkeypatch.setenv("GPUIO_THREADS", "1")
    monkeypatch.setenv("GPUIO_MEMORY", "16 MiB")
    monkeypatch.setenv("GPUIO_TRANSPORT", "mmap")
    config.forget()
    found = scan.explain(dtype="float32")
    assert (found.decode_threads, found.memory_budget, found.transport) == (1, 16 << 20, "mmap")
    found = scan.explain(dtype="float32", threads=0, memory="8 MiB", depth=3)
    assert (found.decode_threads, found.memory_budget, found.tile_frames) == (0, 8 << 20, 3)
    asked = gpuio.open(scan.files[0], device="cpu", io_backend=BufferedBackend())
    assert asked.explain().transport == "buffered"
    stacks = [tile.data.copy() for tile in asked.tiles()]
    assert len(stacks[0]) == (64 << 10) // (31 * 37 * 2)
    np.testing.assert_array_equal(np.concatenate(stacks), pixels.reshape(-1, 31, 37))


def test_blocks_are_as_large_as_configured(file: Path, scan: Any) -> None:
    file.write_text('[stream]\ntransport = "buffered"\nblock_bytes = "16 KiB"\ntile_bytes = "1 KiB"\n')
    assert scan.explain().block_frames == (16 << 10) // (31 * 37 * 2)
    file.unlink()
    file.write_text('[stream]\ntransport = "buffered"\ntile_bytes = "1 KiB"\n')
    config.forget()
    assert scan.explain().block_frames > (16 << 10) // (31 * 37 * 2)


@pytest.mark.parametrize("backend", [GDSBackend, None])
def test_a_transport_that_cannot_be_used_is_left_alone(file: Path, scan: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch,
                                                       backend: type[IOBackend] | None) -> None:
    if backend is None:
        monkeypatch.setattr("gpuio.io.backends.DirectBackend.unavailable", lambda self, path=None: "refused")
    file.write_text(f'[stream]\ntransport = "{"direct" if backend is None else "gds"}"\n')
    assert scan.explain().transport in ("mmap", "buffered")
    np.testing.assert_array_equal(scan[...], pixels)


def test_without_a_file_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.stream() == StreamSettings()
    (tmp_path / "gpuio").mkdir()
    (tmp_path / "gpuio" / "config.toml").write_text("[stream]\nthreads = 3\n")
    assert config.stream() == StreamSettings(), "until it is looked up again"
    config.forget()
    assert config.stream() == StreamSettings(threads=3)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert config.path() == str(tmp_path / "home" / ".config" / "gpuio" / "config.toml")


def test_settings_are_looked_up_again_after_a_while(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(config.time, "monotonic", lambda: now)
    file.write_text("[stream]\nthreads = 3\n")
    assert config.stream().threads == 3
    file.write_text("[stream]\nthreads = 4\n")
    assert config.stream().threads == 3
    now += config.LIFETIME_SECONDS + 0.1
    assert config.stream().threads == 4


@pytest.mark.parametrize(("words", "match"), [
    ("[stream\n", "not a TOML file"), ("threads = 2\n", "'threads' is unknown; expected a table \\[stream\\]"),
    ("[flow]\nthreads = 2\n", "'flow' is unknown"),
    ("[stream]\nthread = 2\n", "key 'thread' of \\[stream\\] is unknown; expected one of threads"),
    ("[stream]\nthreads = -1\n", "threads: -1 is not a number of threads"), ("[stream]\nthreads = true\n", "threads: True"),
    ("[stream]\nthreads = 1.5\n", "threads: 1.5"), ("[stream]\nmemory = 'plenty'\n", "memory: memory size 'plenty'"),
    ("[stream]\nmemory = 0\n", "memory: memory size 0 is not positive"),
    ("[stream]\ntile_bytes = [1]\n", "tile_bytes: \\[1\\] is not a size"),
    ("[stream]\ntransport = 'pigeon'\n", "transport: 'pigeon' is not a transport; expected one of buffered"),
    ("[stream]\ntransport = []\n", "transport: \\[\\] is not"), (None, "No such file"),
])
def test_a_broken_file_is_named_with_its_key(file: Path, scan: Any, words: str | None, match: str) -> None:
    if words is not None:
        file.write_text(words)
    config.forget()
    with pytest.raises(ConfigError, match=match) as error:
        next(scan.tiles())
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, GpuioError) and isinstance(error.value, ValueError)


def test_a_file_that_is_no_text_is_said_to_be_none(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a TOML file"):
        config.stream()


@pytest.mark.parametrize(("name", "value"), [("GPUIO_THREADS", "many"), ("GPUIO_MEMORY", "-3"), ("GPUIO_TRANSPORT", "pigeon")])
def test_a_broken_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^{name} in the environment: .*{value}"):
        config.stream()


def test_writing_keeps_what_is_set_otherwise(file: Path) -> None:
    config.write(StreamSettings(threads=2, transport="direct"), str(file))
    assert config.stream() == StreamSettings(threads=2, transport="direct")
    config.write(StreamSettings(threads=4, tile_bytes=1 << 20), str(file))
    config.forget()
    assert config.stream() == StreamSettings(threads=4, tile_bytes=1 << 20, transport="direct")
    assert sorted(path.name for path in file.parent.iterdir()) == ["gpuio.toml"]
    file.write_text("[stream\n")
    with pytest.raises(ConfigError):
        config.write(StreamSettings(threads=4), str(file))
    assert file.read_text() == "[stream\n"


def test_writing_makes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new"))
    config.write(StreamSettings(memory=5), config.path() or "")
    assert config.stream() == StreamSettings(memory=5)


def test_every_transport_can_be_configured() -> None:
    known = {"buffered", "mmap", "direct", "gds"}
    assert set(config.TRANSPORTS) == known <= set(IOBackend.get_supported())
