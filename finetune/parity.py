"""llama.cpp's own view of an exported file: token ids and logits, from a fresh child process.

The child exists because a bad file crashes llama.cpp instead of raising; here that is an exit
code. No torch in this file, so that the child starts fast.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from finetune.vocabulary import GgufVocabulary, quiet_llama_cpp

Logits = npt.NDArray[np.float32]
F32 = 0
"""ggml's number for the type of the KV cache: half precision would blur the comparison."""


class LlamaCppFailed(Exception):
    """llama.cpp could not load or run a file; the text says which and how it ended."""


@dataclass(frozen=True)
class Question:
    """What the child is asked: texts to tokenise, id sequences to score and to go on with."""

    model: Path
    adapter: Path | None
    texts: tuple[str, ...]
    sequences: tuple[tuple[int, ...], ...]
    greedy_tokens: int = 0
    """How many likeliest tokens are written after each sequence, one by one."""


@dataclass(frozen=True)
class Answer:
    """Token ids of each text; logits (T, V) and the greedy tokens of each sequence."""

    token_ids: tuple[tuple[int, ...], ...]
    logits: tuple[Logits, ...]
    greedy: tuple[tuple[int, ...], ...] = ()


def ask_in_child(
    questions: Sequence[Question], folder: Path, seconds: float = 900.0
) -> list[Answer]:
    """Let a new process load the files, one after the other, and answer.

    Args:
        folder: for what it answers. Logits tell what was said: they stay where the run is, and go
            with it if this process is killed.

    Raises:
        LlamaCppFailed: it crashed, refused the file, or took longer than ``seconds``.
    """
    with TemporaryDirectory(prefix=".parity-", dir=folder) as place:
        result = Path(place) / "answer.npz"
        child = multiprocessing.get_context("spawn").Process(
            target=_answer_to_file, args=(questions, result), daemon=True
        )
        child.start()
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
            raise LlamaCppFailed("llama.cpp did not finish in time")
        if child.exitcode != 0 or not result.exists():
            raise LlamaCppFailed(f"llama.cpp ended with code {child.exitcode}")
        with np.load(result) as arrays:
            return [_unpacked(arrays, number, one) for number, one in enumerate(questions)]


def answer(question: Question, threads: int = 1) -> Answer:
    """The same in this process: for tests, where a crash may end the process."""
    vocabulary = GgufVocabulary(question.model)
    ids = tuple(tuple(vocabulary.tokenize(text, continues=False)) for text in question.texts)
    vocabulary.close()
    logits, greedy = _scored(question, threads) if question.sequences else ((), ())
    return Answer(ids, logits, greedy)


def _answer_to_file(questions: Sequence[Question], result: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, question in enumerate(questions):
        found = answer(question)
        for place, ids in enumerate(found.token_ids):
            arrays[f"{number}.ids.{place}"] = np.array(ids, dtype=np.int64)
        for place, values in enumerate(found.logits):
            arrays[f"{number}.logits.{place}"] = values
            arrays[f"{number}.greedy.{place}"] = np.array(found.greedy[place], dtype=np.int64)
    np.savez(result, **arrays)  # type: ignore[arg-type]


def _unpacked(arrays: Any, number: int, question: Question) -> Answer:
    ids = [arrays[f"{number}.ids.{place}"] for place in range(len(question.texts))]
    logits = [arrays[f"{number}.logits.{place}"] for place in range(len(question.sequences))]
    greedy = [arrays[f"{number}.greedy.{place}"] for place in range(len(question.sequences))]
    return Answer(_whole(ids), tuple(logits), _whole(greedy))


def _whole(rows: Sequence[npt.NDArray[Any]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(number) for number in row) for row in rows)


def _scored(
    question: Question, threads: int
) -> tuple[tuple[Logits, ...], tuple[tuple[int, ...], ...]]:
    """Logits and greedy tokens of all sequences."""
    quiet_llama_cpp()
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(question.model).encode(), model_params)
    if not model:
        raise LlamaCppFailed(f"llama.cpp refused {question.model.name}")
    longest = max(len(ids) for ids in question.sequences) + question.greedy_tokens
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(longest, 32)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = F32
    params.flash_attn_type = 0
    params.offload_kqv = False
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise LlamaCppFailed(f"llama.cpp has no memory for {question.model.name}")
    if question.adapter is not None:
        adapter = llama_cpp.llama_adapter_lora_init(model, str(question.adapter).encode())
        if not adapter:
            raise LlamaCppFailed(f"llama.cpp refused the adapter {question.adapter.name}")
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) != 0:
            raise LlamaCppFailed(f"llama.cpp could not apply {question.adapter.name}")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    found = [
        _logits_and_greedy(context, ids, question.greedy_tokens, size) for ids in question.sequences
    ]
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return tuple(logits for logits, _ in found), tuple(greedy for _, greedy in found)


def _logits_and_greedy(
    context: Any, ids: Sequence[int], count: int, size: int
) -> tuple[Logits, tuple[int, ...]]:
    """Logits (T, V) of one sequence from an empty cache, and ``count`` tokens after it."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    logits = _decoded(context, ids, 0, size)
    written: list[int] = []
    last = logits[-1]
    for step in range(count):
        written.append(int(last.argmax()))
        if step < count - 1:
            last = _decoded(context, written[-1:], len(ids) + step, size)[-1]
    return logits, tuple(written)


def _decoded(context: Any, ids: Sequence[int], start: int, size: int) -> Logits:
    """Logits (T, V) of tokens that go to the cache's places from ``start`` on."""
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place] = token
        batch.pos[place] = start + place
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = 1
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if code != 0:
        raise LlamaCppFailed(f"llama_decode ended with {code}")
    flat = llama_cpp.llama_get_logits(context)
    return np.ctypeslib.as_array(flat, (len(ids), size)).astype(np.float32)
