"""The repeat penalty for the price of the tokens it concerns.

llama.cpp's own link asks for each token of the vocabulary whether it was said lately: with
150,000 tokens that takes longer than all other links together. Here the logits of those that
were said are changed where they lie, before the chain looks at them. The result is the same to
the last bit (Keskar et al. 2019, section 4.1, with llama.cpp's rule for negative logits).
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

import llama_cpp

from desktop_app.inference.llama_api import Context


class PenalisingSampler:
    """A sampler chain behind a repeat penalty. It owns the chain.

    Args:
        chain: the links that come after the penalty.
        penalty: a positive logit is divided by it, a negative one multiplied.
        window: tokens of the completion that are looked back on.
    """

    def __init__(self, chain: Any, penalty: float, window: int) -> None:
        self._chain = chain
        self._penalty = ctypes.c_float(penalty).value
        self._window = window
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}

    def sample(self, context: Context, index: int) -> int:
        """The next token, from the logits of the last batch's token ``index``."""
        if self._counts:
            logits = llama_cpp.llama_get_logits_ith(context.pointer, index)
            penalty = self._penalty
            for token in self._counts:
                logit = logits[token]
                # In double precision and then rounded to single: the same as in single.
                logits[token] = logit * penalty if logit <= 0 else logit / penalty
        token = int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, index))
        self._note(token)
        return token

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

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
