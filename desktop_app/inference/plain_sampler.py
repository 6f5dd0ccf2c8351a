"""What nearly every token is drawn with, for the price of the tokens that may be drawn.

llama.cpp's own sampling writes down a candidate for each token of the vocabulary, asks of each
whether it was said lately and sorts them: with 150,000 tokens that is 4 % of the time of a model
of 0.5B. Here the logits of what was said lately are changed where they lie (Keskar et al. 2019,
section 4.1, with llama.cpp's rule for negative logits), and the chain sees only tokens whose logit
is near enough to the largest that the k likeliest are surely among them. What is drawn is the
same, to the last bit.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from desktop_app.inference.llama_api import Context

CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data."""
MOST_CANDIDATES: Final = 2048
FIRST_MARGIN: Final = 8.0
"""Below the largest logit; it widens where too few are within it, and narrows where many are."""
WIDEST_MARGIN: Final = 1e6
"""It would grow beyond what a float32 holds where top-k is most of the vocabulary."""
FEW, MANY = 2, 6
"""Times k."""

Floats = npt.NDArray[np.float32]


class PlainSampler:
    """A sampler chain behind a repeat penalty. It owns the chain.

    Args:
        chain: the links that come after the penalty; none of them looks at tokens said before.
        vocabulary_size: tokens the model knows.
        likeliest: how many of the likeliest tokens the chain looks at; 1 if it takes the
            likeliest, 0 if it looks at all.
        penalty: a positive logit is divided by it, a negative one multiplied.
        window: tokens of the completion that are looked back on.
    """

    def __init__(
        self, chain: Any, vocabulary_size: int, likeliest: int, penalty: float, window: int
    ) -> None:
        self._chain = chain
        self._size = vocabulary_size
        self._likeliest = min(likeliest, vocabulary_size)
        self._penalty = np.float32(penalty)
        self._window = window if penalty != 1.0 else 0
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}
        self._address = 0
        self._logits: Floats = np.empty(0, np.float32)
        self._margin = FIRST_MARGIN
        self._candidates = np.zeros(MOST_CANDIDATES, CANDIDATE)
        self._ids, self._values = self._candidates["id"], self._candidates["logit"]
        address = ctypes.c_void_p(self._candidates.ctypes.data)
        self._first = ctypes.cast(address, llama_cpp.llama_token_data_p)
        self._array: Any = llama_cpp.llama_token_data_array()
        self._reference = ctypes.byref(self._array)

    def sample(self, context: Context, index: int) -> int:
        """The next token, from the logits of the last batch's token ``index``."""
        logits = self._logits_of(context, index)
        if self._counts:
            said = np.fromiter(self._counts, np.intp, len(self._counts))
            values = logits[said]
            penalty = self._penalty
            logits[said] = np.where(values <= 0, values * penalty, values / penalty)
        token = self._draw(logits)
        if token is None:
            token = int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, index))
        if self._window:
            self._note(token)
        return token

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def _logits_of(self, context: Context, index: int) -> Floats:
        """llama.cpp's own memory; making an array of it anew takes longer than a small draw."""
        pointer = llama_cpp.llama_get_logits_ith(context.pointer, index)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        if address != self._address:
            self._address = address
            self._logits = np.ctypeslib.as_array(pointer, (self._size,))
        return self._logits

    def _draw(self, logits: Floats) -> int | None:
        """The chain's choice; None where it has to look at all tokens to be sure."""
        if self._likeliest <= 1:
            return int(logits.argmax()) if self._likeliest else None
        near = (logits >= logits.max() - self._margin).nonzero()[0]
        count = len(near)
        if count < FEW * self._likeliest:
            self._margin = min(1.2 * self._margin, WIDEST_MARGIN)
        elif count > MANY * self._likeliest:
            self._margin *= 0.95 if count <= MOST_CANDIDATES else 0.7
        if not self._likeliest <= count <= MOST_CANDIDATES:
            return None
        self._ids[:count] = near
        self._values[:count] = logits[near]
        array = self._array
        array.data, array.size, array.selected, array.sorted = self._first, count, -1, False
        llama_cpp.llama_sampler_apply(self._chain, self._reference)
        return int(array.data[array.selected].id)

    def _note(self, token: int) -> None:
        counts = self._counts
        self._recent.append(token)
        counts[token] = counts.get(token, 0) + 1
        if len(self._recent) > self._window:
            oldest = self._recent.popleft()
            if counts[oldest] == 1:
                del counts[oldest]
            else:
                counts[oldest] -= 1
