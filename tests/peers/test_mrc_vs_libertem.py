"""The same MRC files read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

==========================  ==================================================
file                        LiberTEM
==========================  ==================================================
mode 4                      float64, other values
mode 12, mode 101           do not open (mapping longer than the file)
mode 0, unsigned by IMOD    int8
big-endian                  does not open (array too big)
mz = nz                     frames of the wrong shape, reading fails
cut short                   does not open (mapping longer than the file)
==========================  ==================================================
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
    nav: tuple[int, ...] = (15,)
    sig: tuple[int, ...] = (11, 13)
    top: int = 0                        # values are below, if not 0
    missing: int = 0                    # bytes cut off at the end
    right: bool = True


CASES = {
    "mode 0": Case("i1"),
    "mode 1": Case("i2"),
    "mode 2": Case("f4"),
    "mode 4": Case("c8", right=False),
    "mode 6": Case("u2"),
    "mode 12": Case("f2", right=False),
    "mode 101": Case("u1", {"mode": 101}, top=16, right=False),
    "mode 0, unsigned by IMOD": Case("u1", {"mode": 0, "unsigned": True}, right=False),
    "big-endian": Case("u2", {"byteorder": ">"}, right=False),
    "extended header": Case("i2", {"extended": b"x" * 100}),
    "mz = nz": Case("u2", {"mz": 15}, right=False),
    "skipping frames": Case("u2", {}, {"sync_offset": 2}),
    "inserting frames": Case("f4", {}, {"sync_offset": -3}),
    "another scan shape": Case("u2", {}, {"nav_shape": (2, 4)}),
    "cut short": Case("u2", missing=30, right=False),
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
    folder = tmp_path_factory.mktemp("mrc")
    jobs, seen = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        frames = random_items(number, (int(np.prod(case.nav)), *case.sig), case.dtype)
        frames = frames % case.top if case.top else frames
        path = str(folder / f"{number}.mrc")
        synth.write("mrc", path, [frames], nav_shape=case.nav, sig_shape=case.sig, **case.options)
        if case.missing:
            os.truncate(path, os.path.getsize(path) - case.missing)
            frames[-1] = 0
        seen[name] = path, scan(case, frames)
        jobs.append({"format": "mrc", "path": path, "parameters": case.parameters, "result": str(folder / f"{number}.npz")})
    return {name: (*seen[name], theirs) for name, theirs in zip(CASES, libertem_frames.read(jobs), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    path, expected, _ = read[name]
    assert_same(gpuio.load("mrc", path=path, device="cpu", **CASES[name].parameters)[...], expected)


@pytest.mark.parametrize("name", CASES)
def test_libertem_sees_the_same_where_it_is_right(read, name):
    _, expected, theirs = read[name]
    same = ("error" not in theirs and (*theirs["nav"], *theirs["sig"]) == expected.shape
            and np.array_equal(theirs["frames"].reshape(expected.shape), expected))
    assert same == CASES[name].right, theirs.get("error")
