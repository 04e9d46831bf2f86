"""The specification's registry of backends, and when tiles have to be copies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpuio.corrections import CorrectionSet
from gpuio.fileset import File, FileSet
from gpuio.io.backends import BufferedBackend, DirectBackend, IOBackend, MMapBackend
from gpuio.io.base import Reader
from gpuio.io.decoders import DefaultDecoder


@pytest.fixture
def registry() -> Iterator[dict[str, type[IOBackend]]]:
    before = dict(IOBackend.registry)
    yield IOBackend.registry
    IOBackend.registry.clear()
    IOBackend.registry.update(before)


def test_backends_are_registered_in_order_of_definition() -> None:
    assert list(IOBackend.registry.items())[:3] == [("mmap", MMapBackend), ("buffered", BufferedBackend), ("direct", DirectBackend)]
    assert (MMapBackend.id_, BufferedBackend.id_, DirectBackend.id_, IOBackend.id_) == ("mmap", "buffered", "direct", None)
    assert IOBackend.get_cls_by_id("direct") is DirectBackend
    assert IOBackend.get_cls_by_id("tape") is None
    assert IOBackend.get_supported()[:3] == ["mmap", "buffered", "direct"]


def test_a_backend_of_ones_own_registers_by_being_defined(registry: dict[str, type[IOBackend]]) -> None:
    class Tape(IOBackend, id_="tape"):
        def open(self, paths: Sequence[str], sizes: Sequence[int | None]) -> Reader:
            return BufferedBackend().open(paths, sizes)

    class Broken(Tape, id_="broken"):
        @classmethod
        def platform_supported(cls) -> bool:
            return False

    assert IOBackend.get_cls_by_id("tape") is Tape and Tape().id == "tape"
    assert list(registry)[-2:] == ["tape", "broken"]
    assert IOBackend.get_supported()[-1] == "tape"
    assert "broken" in str(Broken().unavailable()) and Tape().unavailable() is None


def test_without_o_direct_the_direct_backend_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    assert not DirectBackend.platform_supported()
    assert IOBackend.get_supported()[:2] == ["mmap", "buffered"] and "direct" not in IOBackend.get_supported()
    assert "O_DIRECT" in str(DirectBackend().unavailable())


def test_defaults_are_those_of_the_specification() -> None:
    assert MMapBackend() == MMapBackend(enable_readahead_hints=False) != MMapBackend(True)
    assert BufferedBackend() == BufferedBackend(max_buffer_size=16777216) != BufferedBackend(1)
    assert DirectBackend() == DirectBackend(max_buffer_size=16777216) != BufferedBackend()
    assert repr(BufferedBackend()) == "BufferedBackend(max_buffer_size=16777216)"


def test_backends_are_hashable_values() -> None:
    assert len({MMapBackend(), MMapBackend(), BufferedBackend(7), BufferedBackend(7), DirectBackend(7)}) == 3


@pytest.mark.parametrize(("cls", "msg", "expected"), [
    (MMapBackend, {}, MMapBackend()),
    (MMapBackend, {"enable_readahead_hints": True}, MMapBackend(True)),
    (BufferedBackend, {"id": "buffered", "max_buffer_size": 4096}, BufferedBackend(4096)),
    (DirectBackend, {"id": "direct"}, DirectBackend()),
])
def test_backends_are_made_from_json(cls: type[IOBackend], msg: dict[str, Any], expected: IOBackend) -> None:
    assert cls.from_json(msg) == expected


@pytest.mark.parametrize(("cls", "msg", "message"), [
    (MMapBackend, {"max_buffer_size": 1}, r"no parameters \['max_buffer_size'\]; expected a selection of \['enable_readahead_hints'\]"),
    (BufferedBackend, {"max_buffer_size": "1 MiB"}, "positive number of bytes"),
    (BufferedBackend, {"max_buffer_size": 0}, "positive number of bytes"),
    (DirectBackend, {"max_buffer_size": True}, "positive number of bytes"),
])
def test_json_that_does_not_fit_is_refused(cls: type[IOBackend], msg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls.from_json(msg)


@pytest.mark.parametrize(("backend", "size"), [
    (MMapBackend(), 1048576), (BufferedBackend(), 16777216), (BufferedBackend(12345), 12345), (DirectBackend(8192), 8192),
])
def test_the_largest_read_is_what_tiles_are_negotiated_for(backend: IOBackend, size: int) -> None:
    assert backend.get_impl().get_max_io_size() == size


def files(*edges: int) -> FileSet:
    return FileSet([File(f"{a}", a, b, "<u2", (4, 4)) for a, b in pairwise(edges)])


PLAIN: dict[str, Any] = {"decoder": None, "roi": None, "native_dtype": "<u2", "read_dtype": "u2"}
SCHEME = SimpleNamespace(depth=5)


@pytest.mark.parametrize(("change", "expected"), [
    ({}, False),
    ({"roi": np.ones(12, bool)}, True),
    ({"read_dtype": "f4"}, True),
    ({"native_dtype": ">u2"}, True),
    ({"native_dtype": ">u2", "read_dtype": ">u2"}, False),
    ({"decoder": DefaultDecoder()}, True),
    ({"sync_offset": -1}, True),
    ({"sync_offset": 1}, False),
    ({"corrections": CorrectionSet()}, False),
    ({"corrections": CorrectionSet(dark=np.zeros((4, 4)))}, True),
    ({"tiling_scheme": SCHEME, "fileset": files(0, 5, 12)}, False),
    ({"tiling_scheme": SCHEME, "fileset": files(0, 8, 12)}, True),
    ({"tiling_scheme": SCHEME}, False),
    ({"fileset": files(0, 1)}, False),
])
def test_mapped_tiles_are_views_unless_something_has_to_be_done(change: dict[str, Any], expected: bool) -> None:
    assert MMapBackend().get_impl().need_copy(**{**PLAIN, **change}) is expected
    assert BufferedBackend().get_impl().need_copy(**{**PLAIN, **change}) is True
    assert DirectBackend().get_impl().need_copy(**{**PLAIN, **change}) is True
