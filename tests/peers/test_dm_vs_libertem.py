"""The same DM3 and DM4 files read by gpuio and by LiberTEM 0.16; and both against the arrays before encoding.

==============================  =========================================================================
file                            LiberTEM
==============================  =========================================================================
bool                            does not open
int64, uint64                   does not give the values that were written
big-endian                      does not open
scan behind a survey image      shows the survey image
scan with navigation fastest    does not open
==============================  =========================================================================
"""

from __future__ import annotations

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
    sig: tuple[int, ...] = (11, 13)
    right: bool = True


LIST = {"frames_per_file": 1}
CASES = {
    **{f"scan of {dtype}": Case(dtype, right=dtype not in ("?", "i8", "u8"))
       for dtype in ("i2", "f4", "c8", "u1", "i4", "i1", "u2", "u4", "f8", "c16", "?", "i8", "u8")},
    "scan, version 3": Case("u2", {"version": 3}),
    "scan behind a survey image": Case("u2", {"survey": (6, 7)}, right=False),
    "scan without preview": Case("u2", {"thumbnail": False}),
    "scan, big-endian": Case(">u2", right=False),
    "scan, navigation fastest": Case("u2", {"transposed": True}, right=False),
    "scan, skipping frames": Case("u2", {}, {"sync_offset": 2}),
    "stack": Case("u2", nav=(15,)),
    "list": Case("u2", LIST, nav=(15,)),
    "list, version 3": Case("f4", {**LIST, "version": 3}, nav=(15,)),
    "list of stacks": Case("i4", {"frames_per_file": 5}, nav=(15,)),
    "list of uneven stacks": Case("i4", {"frames_per_file": 4}, nav=(15,)),
    "list without previews": Case("u2", {**LIST, "thumbnail": False}, nav=(15,)),
    "list, big-endian": Case(">u2", LIST, nav=(15,), right=False),
    "list as a scan": Case("u2", LIST, {"nav_shape": (3, 5)}, nav=(15,)),
    "list, same offset": Case("u2", LIST, {"same_offset": True}, nav=(15,)),
    "list, inserting frames": Case("u2", LIST, {"sync_offset": -3}, nav=(15,)),
}


def scan(case, frames):
    """What is to be seen: positions of `frames` moved by the sync offset, blank where there are none."""
    nav = case.parameters.get("nav_shape", case.nav)
    result = np.zeros((int(np.prod(nav)), *case.sig), frames.dtype.newbyteorder("="))
    for i in range(len(result)):
        k = i + case.parameters.get("sync_offset", 0)
        if 0 <= k < len(frames):
            result[i] = frames[k]
    return result.reshape(*nav, *case.sig)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Write all cases, have LiberTEM read them: name to arguments, what is to be seen, what LiberTEM sees."""
    folder = tmp_path_factory.mktemp("dm")
    jobs, seen = [], {}
    for number, (name, case) in enumerate(CASES.items()):
        frames = random_items(number, (int(np.prod(case.nav)), *case.sig), case.dtype)
        version = case.options.get("version", 4)
        paths = synth.write("dm", folder / f"{number}_.dm{version}", [frames], nav_shape=case.nav, sig_shape=case.sig, **case.options)
        where = {"files": paths} if len(paths) > 1 else {"path": paths[0]}
        seen[name] = where, scan(case, frames)
        jobs.append({"format": "dm", "parameters": {**where, **case.parameters}, "result": str(folder / f"{number}.npz")})
    return {name: (*seen[name], theirs) for name, theirs in zip(CASES, libertem_frames.read(jobs), strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_frames_are_those_before_encoding(read, name):
    where, expected, _ = read[name]
    assert_same(gpuio.load("dm", device="cpu", **where, **CASES[name].parameters)[...], expected)


@pytest.mark.parametrize("name", CASES)
def test_libertem_sees_the_same_where_it_is_right(read, name):
    _, expected, theirs = read[name]
    same = ("error" not in theirs and (*theirs["nav"], *theirs["sig"]) == expected.shape
            and np.array_equal(theirs["frames"].reshape(expected.shape), expected))
    assert same == CASES[name].right, (theirs.get("error"), theirs.get("nav"), theirs.get("sig"))
