"""The same blockfiles read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

==========================  =================================
file                        LiberTEM
==========================  =================================
16 bits, big-endian         other values
cut short                   does not open (assertion)
==========================  =================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import gpuio
from gpuio import synth
from tests.formats.items import assert_same, random_items
from tests.peers import libertem_frames

pytest.importorskip("libertem", reason="LiberTEM is not installed; it is part of the test extra")


@dataclass(frozen=True)
class Case:
    """A scan, how it is written and opened, and whether LiberTEM reads it right."""

    dtype: str
    options: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    nav: tuple[int, ...] = (3, 5)
    sig: tuple[int, ...] = (11, 11)
    missing: int = 0                    # bytes cut off at the end
    right: bool = True


CASES = {
    "8 bits": Case("u1"),
    "16 bits": Case("u2", {"bits": 16}),
    "8 bits, big-endian": Case("u1", {"endianess": ">"}, {"endianess": ">"}),
    "16 bits, big-endian": Case("u2", {"bits": 16, "endianess": ">"}, {"endianess": ">"}, right=False),
    "skipping frames": Case("u1", {}, {"sync_offset": 2}),
    "inserting frames": Case("u2", {"bits": 16}, {"sync_offset": -3}),
    "another scan shape": Case("u1", {}, {"nav_shape": (2, 4)}),
    "cut short": Case("u1", missing=30, right=False),
}


def scan(case, frames):
    """What is to be seen: positions of `frames` moved by the sync offset, blank where there are none."""
    nav = case.parameters.get("nav_shape", case.nav)
    result = np.zeros((int(np.prod(nav)), *case.sig), frames.dtype)
    for i in range(len(result)):
        k = i + case.parameters.get("sync_offset", 0)
        if 0 <= k < len(frames):
            result[i] = frames[k]
    return result.reshape(*nav, *case.sig)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to path, what is to be seen, what LiberTEM sees."""
    folder = tmp_path_factory.mktemp("blo")
    jobs, seen = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        frames = random_items(number, (int(np.prod(case.nav)), *case.sig), case.dtype)
        path = str(folder / f"{number}.blo")
        synth.write("blo", path, [frames], nav_shape=case.nav, sig_shape=case.sig, **case.options)
        if case.missing:
            os.truncate(path, os.path.getsize(path) - case.missing)
            frames[-1] = 0
        seen[name] = path, scan(case, frames)
        jobs.append({"format": "blo", "path": path, "parameters": case.parameters, "result": str(folder / f"{number}.npz")})
    return {name: (*seen[name], theirs) for name, theirs in zip(CASES, libertem_frames.read(jobs), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, expected, _ = read[name]
    assert_same(gpuio.load("blo", path=path, device="cpu", **CASES[name].parameters)[...], expected)


@pytest.mark.parametrize("name", CASES)
def test_libertem_sees_the_same_where_it_is_right(read, name):
    _, expected, theirs = read[name]
    same = ("error" not in theirs and (*theirs["nav"], *theirs["sig"]) == expected.shape
            and np.array_equal(theirs["frames"].reshape(expected.shape), expected))
    assert same == CASES[name].right, theirs.get("error")
