"""Chunks of an array as partitions: neighbours are merged until each chunk is a run of whole frames. None is ever cut.

1. A detector axis becomes one chunk.
2. If the order of navigation axes may change, those with the most chunks come first; equals stay in order.
3. From the left, axes whose chunks all have length 1 stay as they are; behind the first other one, each axis becomes one chunk.
4. While the smallest chunk has fewer bytes than it should have, the last axis that has several chunks merges its smallest, of equals
   the rightmost, with the smaller of its neighbours, of equals the left one.

Source: what LiberTEM's data set of the same name was seen to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

Chunks = tuple[tuple[int, ...], ...]


def most_chunks_first(chunks: Chunks, sig_dims: int) -> tuple[int, ...]:
    """Step 2: the axes in their new order."""
    nav = len(chunks) - sig_dims
    return (*sorted(range(nav), key=lambda axis: -len(chunks[axis])), *range(nav, len(chunks)))


def merged(chunks: Chunks, sig_dims: int, itemsize: int, min_size: float) -> Chunks:
    """Steps 1, 3 and 4: the chunks that remain."""
    nav = len(chunks) - sig_dims
    result = [[size for size in axis if size] for axis in chunks]
    last = next((i for i, axis in enumerate(result[:nav - 1]) if any(n != 1 for n in axis)), nav - 1)
    for axis in range(last + 1, len(result)):
        result[axis] = [sum(result[axis])]
    for axis in range(last, -1, -1):
        other = itemsize * math.prod(min(sizes) for i, sizes in enumerate(result) if i != axis)
        result[axis] = _grown(result[axis], min_size / other)
    return tuple(tuple(axis) for axis in result)


def _grown(sizes: Sequence[int], least: float) -> list[int]:
    """Step 4 along one axis, until no chunk is below `least`."""
    chunks, n = list(sizes), len(sizes)
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    smallest = [(size, -at) for at, size in enumerate(chunks)]      # of equals the rightmost comes first
    heapify(smallest)
    while smallest:
        size, at = smallest[0][0], -heappop(smallest)[1]
        left, right = before[at], after[at]
        if size >= least or (left < 0 and right == n):
            break
        if size != chunks[at]:          # it has been merged since
            continue
        if right < n and (left < 0 or chunks[right] < chunks[left]):
            left, at = at, right
        chunks[left], chunks[at] = chunks[left] + chunks[at], 0
        after[left] = after[at]
        if after[at] < n:
            before[after[at]] = left
        heappush(smallest, (chunks[left], -left))
    return [size for size in chunks if size]
