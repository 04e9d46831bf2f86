"""Results kept by the contents of placement tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpuio.kept import ROWS, kept


@pytest.fixture
def calls() -> list[tuple[np.ndarray, int]]:
    return []


@pytest.fixture
def function(calls: list[tuple[np.ndarray, int]]) -> Callable[[np.ndarray, int], np.ndarray]:
    @kept
    def sums(table: np.ndarray, factor: int) -> np.ndarray:
        calls.append((table.copy(), factor))
        if factor < 0:
            raise ValueError("negative")
        return table.sum(axis=1) * factor

    return sums


def tables(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 99, (rows, 12))


def test_equal_tables_are_worked_out_once_and_others_anew(function, calls):
    table = tables(3)
    first = function(table, 2)
    np.testing.assert_array_equal(first, table.sum(axis=1) * 2)
    assert function(table.copy(), 2) is first
    assert len(calls) == 1
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0
    changed = table.copy()
    changed[2, 11] += 1
    np.testing.assert_array_equal(function(changed, 2), changed.sum(axis=1) * 2)
    np.testing.assert_array_equal(function(table, 5), table.sum(axis=1) * 5)
    np.testing.assert_array_equal(function(table[:0], 5), [])
    assert len(calls) == 4
    np.testing.assert_array_equal(calls[1][0], changed)


def test_a_table_may_be_written_to_afterwards(function):
    table = tables(2)
    function(table, 1)
    table[0, 0] += 7
    np.testing.assert_array_equal(function(table, 1), table.sum(axis=1))


@pytest.mark.parametrize("array", [tables(ROWS + 1), tables(2)[:, :11], tables(2).astype("f8"), tables(2).astype("u8")])
def test_other_arrays_are_not_kept(function, calls, array):
    for _ in range(2):
        np.testing.assert_array_equal(function(array, 1), array.sum(axis=1))
    assert len(calls) == 2
    assert calls[0][0].dtype == array.dtype


def test_errors_come_each_time(function, calls):
    for _ in range(2):
        with pytest.raises(ValueError, match="negative"):
            function(tables(2), -1)
    assert len(calls) == 2
