"""A byte-level n-gram model: what the bundled model's bits per byte are held against.

Interpolated Witten-Bell smoothing (Witten and Bell 1991) over orders 0 to 6:

    p(b | h) = (count(h b) + kinds(h) * p(b | h without its first byte)) / (count(h) + kinds(h))

where kinds(h) is the number of different bytes seen after h. The most frequent contexts are kept,
as many as a model of the same number of parameters has weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER = 7
"""Bytes of the longest key: six of context and the one that follows."""

_Keys = NDArray[np.uint64]


def _keys(text: NDArray[np.uint8], length: int) -> _Keys:
    """Every run of ``length`` bytes as one number, (len(text) - length + 1,)."""
    count = max(0, len(text) - length + 1)
    keys = np.zeros(count, dtype=np.uint64)
    for offset in range(length):
        keys = (keys << np.uint64(8)) | text[offset : offset + count].astype(np.uint64)
    return keys


class ByteNgram:
    """Counts of byte runs, sorted by key for each length.

    Args:
        text: the training text.
        entries: counts kept in all, the most frequent of the longer runs first.
    """

    def __init__(self, text: bytes, entries: int) -> None:
        data = np.frombuffer(text, dtype=np.uint8)
        self._tables: list[tuple[_Keys, NDArray[np.int64]]] = []
        found = [np.unique(_keys(data, n), return_counts=True) for n in range(1, ORDER + 1)]
        all_counts = np.concatenate([counts for _, counts in found])
        threshold = 0
        if len(all_counts) > entries:
            threshold = int(np.partition(all_counts, -entries)[-entries])
        room = max(0, entries - int((all_counts > threshold).sum()))
        for keys, counts in found:
            keep = counts > threshold
            # As many of those at the limit as there is room for, low orders first.
            at_limit = np.flatnonzero(counts == threshold)[:room]
            room -= len(at_limit)
            keep[at_limit] = True
            self._tables.append((keys[keep], counts[keep].astype(np.int64)))

    @property
    def entries(self) -> int:
        return sum(len(keys) for keys, _ in self._tables)

    def bits_per_byte(self, text: bytes) -> float:
        """Mean of -log2 p over all bytes of ``text``."""
        data = np.frombuffer(text, dtype=np.uint8)
        probability = np.full(len(data), 1.0 / 256)
        for length, (keys, counts) in enumerate(self._tables, start=1):
            if len(data) < length or not len(keys):
                break
            contexts, first = np.unique(keys >> np.uint64(8), return_index=True)
            totals = np.add.reduceat(counts, first)
            kinds = np.diff(np.append(first, len(keys)))
            asked = _keys(data, length)
            count = _looked_up(keys, counts, asked)
            history = asked >> np.uint64(8)
            total = _looked_up(contexts, totals, history)
            kind = _looked_up(contexts, kinds, history)
            lower = probability[length - 1 :]
            known = total > 0
            mixed = (count + kind * lower) / np.maximum(total + kind, 1)
            probability[length - 1 :] = np.where(known, mixed, lower)
        return float(-np.log2(probability).mean())


def _looked_up(keys: _Keys, values: NDArray[np.int64], asked: _Keys) -> NDArray[np.int64]:
    """The value of each asked key, 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
