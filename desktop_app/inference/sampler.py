"""How the next token is drawn: llama.cpp's own sampler chain, with its own random numbers.

``Sampling`` checks and prepares a request's parameters once, before anything is computed; each
of its streams then gets a sampler of its own. The plain one is a single native call a token.
What costs more is a class of its own, used only where it was asked for: a grammar, and
log-probabilities.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import llama_cpp
import numpy as np
import numpy.typing as npt

from desktop_app.inference.engine import DrawnToken, SamplingParams, TokenLogprob
from desktop_app.inference.grammar import grammar_of
from desktop_app.inference.llama_api import Context
from desktop_app.inference.plain_sampler import CANDIDATE, PlainSampler
from desktop_app.inference.vocabulary import LlamaVocabulary
from finetune.contract.errors import InputError

MOST_LOGPROBS: Final = 100
MIROSTAT_CANDIDATES: Final = 100
"""Tokens from which mirostat 1 estimates the shape of the distribution: its authors' m."""
_FINITE: Final = 1e9
_LONGEST_WINDOW: Final = 1 << 20
_RANGES: Final = {
    "temperature": (-_FINITE, _FINITE),
    "top_k": (-_FINITE, _FINITE),
    "top_p": (-_FINITE, _FINITE),
    "min_p": (-_FINITE, _FINITE),
    "typical_p": (-_FINITE, _FINITE),
    "repeat_penalty": (1e-3, 1e3),
    "frequency_penalty": (-1e3, 1e3),
    "presence_penalty": (-1e3, 1e3),
    "penalty_window": (0, _LONGEST_WINDOW),
    "dry_multiplier": (0, 1e3),
    "dry_base": (1, 1e3),
    "dry_allowed_length": (0, _LONGEST_WINDOW),
    "dry_penalty_last_n": (0, _LONGEST_WINDOW),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 1e3),
    "mirostat_eta": (0, 1e3),
    "logprobs": (0, MOST_LOGPROBS),
}

Floats = npt.NDArray[np.float32]


class Sampler(Protocol):
    """Draws the tokens of one completion."""

    def sample(self, context: Context, index: int) -> int:
        """The next token, from the logits of the last batch's token ``index``."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


class Sampling:
    """A request's sampling parameters, checked and prepared for one model.

    Args:
        end_id: what a grammar that allows nothing more draws.

    Raises:
        InputError: a number is out of its range, a biased token is unknown, or the grammar or
            the JSON schema cannot be used. The text says which.
    """

    def __init__(self, params: SamplingParams, vocabulary: LlamaVocabulary, end_id: int) -> None:
        _check_ranges(params)
        self._params = params
        self._vocabulary = vocabulary
        self._end_id = end_id
        self._biases = _biases(params, vocabulary)
        # Made once and copied for each stream: both look at the whole vocabulary or text.
        self._grammar: Any = None
        self._dry: Any = None
        grammar = grammar_of(params)
        if grammar:
            self._grammar = llama_cpp.llama_sampler_init_grammar(
                vocabulary.pointer, grammar.encode("utf-8"), b"root"
            )
            if not self._grammar:
                raise InputError(
                    "The grammar cannot be used: llama.cpp could not read it, or it has no rule "
                    "named root, or a rule begins with itself; the engine's log says more."
                )
        if params.dry_multiplier > 0 and params.dry_penalty_last_n > 0:
            breakers = [text.encode("utf-8") for text in params.dry_breakers if text]
            self._dry = llama_cpp.llama_sampler_init_dry(
                vocabulary.pointer,
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                params.dry_penalty_last_n,
                (ctypes.c_char_p * len(breakers))(*breakers),
                len(breakers),
            )

    def sampler(self, seed: int, is_waiting: Callable[[], bool]) -> Sampler:
        """A sampler for one stream.

        Args:
            seed: the same seed draws the same tokens from the same logits.
            is_waiting: whether the stream is inside a reasoning block that the prompt has
                opened: a grammar is of what follows. Asked only where there is one.
        """
        sampler: Sampler
        if self._is_plain:
            params = self._params
            likeliest = 0 if params.mirostat else params.top_k
            return PlainSampler(
                self._chain(seed, repeat_penalty=1.0),
                self._vocabulary.size,
                1 if params.temperature <= 0 else max(0, likeliest),
                params.repeat_penalty,
                params.penalty_window,
            )
        chain = self._chain(seed, self._params.repeat_penalty)
        if self._grammar:
            grammar = llama_cpp.llama_sampler_clone(self._grammar)
            size, end_id = self._vocabulary.size, self._end_id
            sampler = GrammarSampler(chain, grammar, size, end_id, is_waiting)
        else:
            sampler = ChainSampler(chain)
        if self._params.logprobs > 0:
            return RecordingSampler(sampler, self._vocabulary, self._params.logprobs)
        return sampler

    @property
    def _is_plain(self) -> bool:
        """Whether a repeat penalty at most comes before the links that leave tokens out, and
        nobody else wants to see the logits as they were."""
        params = self._params
        return (
            (params.frequency_penalty, params.presence_penalty) == (0.0, 0.0)
            and params.logprobs == 0
            and not (self._biases or self._grammar or self._dry)
        )

    def close(self) -> None:
        """Give the prepared parts back; samplers made before live on."""
        for prepared in (self._grammar, self._dry):
            if prepared:
                llama_cpp.llama_sampler_free(prepared)
        self._grammar = self._dry = None

    def _chain(self, seed: int, repeat_penalty: float) -> Any:
        """llama.cpp's default order (common_sampler_init), without the links that do nothing."""
        params, size = self._params, self._vocabulary.size
        links = []
        if self._biases:
            entries = [llama_cpp.llama_logit_bias(*bias) for bias in self._biases]
            biases = (llama_cpp.llama_logit_bias * len(entries))(*entries)
            links.append(llama_cpp.llama_sampler_init_logit_bias(size, len(biases), biases))
        penalties = repeat_penalty, params.frequency_penalty, params.presence_penalty
        if penalties != (1.0, 0.0, 0.0):
            links.append(
                llama_cpp.llama_sampler_init_penalties(size, params.penalty_window, *penalties)
            )
        if self._dry:
            links.append(llama_cpp.llama_sampler_clone(self._dry))
        if params.temperature <= 0:
            links.append(llama_cpp.llama_sampler_init_greedy())
        elif params.mirostat:
            links.append(llama_cpp.llama_sampler_init_temp(params.temperature))
            surprise = params.mirostat_tau, params.mirostat_eta
            links.append(
                llama_cpp.llama_sampler_init_mirostat(size, seed, *surprise, MIROSTAT_CANDIDATES)
                if params.mirostat == 1
                else llama_cpp.llama_sampler_init_mirostat_v2(seed, *surprise)
            )
        else:
            if params.top_k > 0:
                links.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
            if params.typical_p < 1:
                links.append(llama_cpp.llama_sampler_init_typical(params.typical_p, 1))
            if params.top_p < 1:
                links.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
            if params.min_p > 0:
                links.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
            if params.xtc_probability > 0:
                probability, threshold = params.xtc_probability, params.xtc_threshold
                links.append(llama_cpp.llama_sampler_init_xtc(probability, threshold, 1, seed))
            links.append(llama_cpp.llama_sampler_init_temp(params.temperature))
            links.append(llama_cpp.llama_sampler_init_dist(seed))
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for link in links:
            llama_cpp.llama_sampler_chain_add(chain, link)
        return chain


class ChainSampler:
    """A sampler chain and nothing else. It owns the chain."""

    def __init__(self, chain: Any) -> None:
        self._chain = chain

    def sample(self, context: Context, index: int) -> int:
        """The next token, from the logits of the last batch's token ``index``."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, index))

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


class GrammarSampler(ChainSampler):
    """A chain whose tokens must fit a grammar, drawn as llama.cpp's common_sampler_sample does.

    A token is drawn freely first and asked whether it fits, which is cheap. Only where it does
    not, the grammar looks at the whole vocabulary and the chain draws again from what is left.

    Args:
        grammar: owned by this object from now on.
        end_id: drawn where nothing is left.
        is_waiting: tokens are drawn freely while this is true.
    """

    def __init__(
        self,
        chain: Any,
        grammar: Any,
        vocabulary_size: int,
        end_id: int,
        is_waiting: Callable[[], bool],
    ) -> None:
        super().__init__(chain)
        self._grammar = grammar
        self._size = vocabulary_size
        self._end_id = end_id
        self._is_waiting = is_waiting
        self._ids = np.arange(vocabulary_size, dtype=np.int32)
        self._candidates = np.zeros(vocabulary_size, CANDIDATE)
        self._array: Any = llama_cpp.llama_token_data_array()
        self._one: Any = llama_cpp.llama_token_data()
        self._array_of_one: Any = llama_cpp.llama_token_data_array()

    def sample(self, context: Context, index: int) -> int:
        """The next token; the end where the grammar allows nothing more."""
        if self._is_waiting():
            return super().sample(context, index)
        logits = logits_of(context, index, self._size)
        token: int | None = self._draw(logits)
        if not self._fits(token):
            token = self._draw_fitting(logits)
            if not self._fits(token):
                return self._end_id
        # llama.cpp ends the process where a grammar accepts what does not fit.
        llama_cpp.llama_sampler_accept(self._grammar, token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        assert token is not None
        return token

    def close(self) -> None:
        super().close()
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
            self._grammar = None

    def _draw(self, logits: Floats) -> int:
        self._fill(logits)
        return self._apply_chain(self._size)

    def _draw_fitting(self, logits: Floats) -> int | None:
        self._fill(logits)
        self._give(self._size)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(self._array))
        # Some links cannot bear candidates that are impossible: they are taken out.
        left = self._candidates[self._candidates["logit"] > -math.inf]
        if not len(left):
            return None
        self._candidates[: len(left)] = left
        return self._apply_chain(len(left))

    def _fill(self, logits: Floats) -> None:
        self._candidates["id"] = self._ids
        self._candidates["logit"] = logits

    def _apply_chain(self, count: int) -> int:
        self._give(count)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(self._array))
        return int(self._array.data[self._array.selected].id)

    def _give(self, count: int) -> None:
        """Let the array be the first ``count`` candidates; links move its beginning."""
        address = ctypes.c_void_p(self._candidates.ctypes.data)
        self._array.data = ctypes.cast(address, llama_cpp.llama_token_data_p)
        self._array.size, self._array.selected, self._array.sorted = count, -1, False

    def _fits(self, token: int | None) -> bool:
        if token is None:
            return False
        one, array = self._one, self._array_of_one
        one.id, one.logit, one.p = token, 1.0, 0.0
        array.data = ctypes.pointer(one)
        array.size, array.selected, array.sorted = 1, -1, False
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one.logit > -math.inf)


class RecordingSampler:
    """Another sampler, and the log-probabilities of what it draws.

    They are those of the model's own distribution, log softmax of the logits as they are.

    Args:
        count: how many of the likeliest tokens are noted beside the drawn one.

    Attributes:
        drawn: one entry for each token so far.
    """

    def __init__(self, sampler: Sampler, vocabulary: LlamaVocabulary, count: int) -> None:
        self._sampler = sampler
        self._vocabulary = vocabulary
        self._count = min(count, vocabulary.size)
        self.drawn: list[DrawnToken] = []

    def sample(self, context: Context, index: int) -> int:
        """The next token, from the logits of the last batch's token ``index``."""
        token = self._sampler.sample(context, index)
        logits = logits_of(context, index, self._vocabulary.size).astype(np.float64)
        top = float(logits.max())
        logprobs = logits - (top + math.log(np.exp(logits - top).sum()))
        best = np.argpartition(-logprobs, self._count - 1)[: self._count]
        best = best[np.argsort(-logprobs[best], kind="stable")]
        self.drawn.append(
            DrawnToken(
                self._entry(token, logprobs), tuple(self._entry(int(i), logprobs) for i in best)
            )
        )
        return token

    def close(self) -> None:
        self._sampler.close()

    def _entry(self, token: int, logprobs: npt.NDArray[np.float64]) -> TokenLogprob:
        text = self._vocabulary.piece(token).decode("utf-8", "replace")
        return TokenLogprob(token, text, float(logprobs[token]))


def usable_seed(seed: int) -> int:
    """The seed as llama.cpp takes it: 32 bits, and not the one that means "surprise me"."""
    return seed % int(llama_cpp.LLAMA_DEFAULT_SEED)


def logits_of(context: Context, index: int, vocabulary_size: int) -> Floats:
    """The logits of the last batch's token ``index``, (vocabulary_size,); llama.cpp's own
    memory, which the next computation overwrites."""
    pointer = llama_cpp.llama_get_logits_ith(context.pointer, index)
    return np.ctypeslib.as_array(pointer, (vocabulary_size,))


def _check_ranges(params: SamplingParams) -> None:
    for name, (low, high) in _RANGES.items():
        value = getattr(params, name)
        if not low <= value <= high:  # so is what is not a number
            raise InputError(
                f"The sampling setting {name} must be from {low:g} to {high:g}, not {value}."
            )


def _biases(params: SamplingParams, vocabulary: LlamaVocabulary) -> list[tuple[int, float]]:
    for token, bias in params.logit_bias:
        if not abs(bias) <= _FINITE:
            raise InputError(
                f"The logit bias of {token!r:.40} must be a finite number, not {bias}; "
                "-100 is as good as never."
            )
    return [(_token_of(token, vocabulary), bias) for token, bias in params.logit_bias]


def _token_of(token: str | int, vocabulary: LlamaVocabulary) -> int:
    if isinstance(token, int):
        if 0 <= token < vocabulary.size:
            return token
        raise InputError(
            f"There is a logit bias for token {token}, but the tokens of this model are "
            f"0 to {vocabulary.size - 1}."
        )
    special = vocabulary.special_tokens.get(token)
    if special is not None:
        return special
    ways = [vocabulary.tokenize(token, continues=True), vocabulary.tokenize(token, continues=False)]
    for ids in ways:
        if len(ids) == 1:
            return ids[0]
    raise InputError(
        f"There is a logit bias for {token!r:.40}, but that is {len(ways[0])} tokens of this "
        "model; a bias is for exactly one."
    )
