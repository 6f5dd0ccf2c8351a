"""llama.cpp's own view of an exported file: token ids and logits, from a fresh child process.

The child exists because a bad file, or a machine that has no memory left, crashes llama.cpp instead
of raising; here that is an exit code, and which of the two it was cannot be told from it. No torch
in this file, so that the child starts fast.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from finetune.vocabulary import GgufVocabulary, quiet_llama_cpp

Logits = npt.NDArray[np.float32]
F32 = 0
"""ggml's number for the type of the KV cache: half precision would blur the comparison."""
PLACES: Final = 64
"""At most so many of a sequence's last places are compared: with a vocabulary of 150,000 the logits
of as many take 38 MB."""


class LlamaCppFailed(Exception):
    """llama.cpp could not load or run a file; the text says which and how it ended."""


class LlamaCppInterrupted(Exception):
    """llama.cpp was ended before it could say anything of the files, by a signal or by time."""


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
    """Token ids of each text; logits (at most PLACES, V) and the greedy tokens of each sequence."""

    token_ids: tuple[tuple[int, ...], ...]
    logits: tuple[Logits, ...]
    greedy: tuple[tuple[int, ...], ...] = ()


def ask_in_child(question: Question, folder: Path, seconds: float = 900.0) -> Answer:
    """Let a new process load the files and answer.

    Args:
        folder: for what it answers. Logits tell what was said: they stay where the run is, and go
            with it if this process is killed.

    Raises:
        LlamaCppFailed: it refused a file.
        LlamaCppInterrupted: it was killed, or took longer than ``seconds``.
        MemoryError, OSError: there was not enough memory or disk.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    with TemporaryDirectory(prefix=".parity-", dir=folder) as place, receiver:
        result = Path(place) / "answer.npz"
        work = question, result, sender
        child = spawn.Process(target=_answer_to_file, args=work, daemon=True)
        child.start()
        sender.close()
        child.join(seconds)
        if child.is_alive():
            child.kill()
            child.join()
            raise LlamaCppInterrupted("llama.cpp did not finish in time")
        lack: OSError | MemoryError | None = None
        with suppress(EOFError, BrokenPipeError):
            if receiver.poll():  # it may have ended before it took over its end of the pipe
                lack = receiver.recv()
        if lack is not None:
            raise lack
        code = child.exitcode or 0
        if code and code == -getattr(signal, "SIGKILL", 0):  # how a system makes room
            raise MemoryError("llama.cpp was killed")
        if code < 0:
            raise LlamaCppInterrupted(f"llama.cpp was ended by signal {-code}")
        if code or not result.exists():
            raise LlamaCppFailed(f"llama.cpp ended with code {code}")
        with np.load(result) as arrays:
            return _unpacked(arrays, question)


def answer(question: Question, threads: int = 1) -> Answer:
    """The same in this process: for tests, where a crash may end the process."""
    vocabulary = GgufVocabulary(question.model)
    ids = tuple(tuple(vocabulary.tokenize(text, continues=False)) for text in question.texts)
    vocabulary.close()
    logits, greedy = _scored(question, threads) if question.sequences else ((), ())
    return Answer(ids, logits, greedy)


def _answer_to_file(question: Question, result: Path, sender: Connection) -> None:
    """Write the answer; a lack of memory or disk goes back as the exception that it is."""
    try:
        found = answer(question)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for place, ids in enumerate(found.token_ids):
            arrays[f"ids.{place}"] = np.array(ids, dtype=np.int64)
        for place, values in enumerate(found.logits):
            arrays[f"logits.{place}"] = values
            arrays[f"greedy.{place}"] = np.array(found.greedy[place], dtype=np.int64)
        np.savez(result, **arrays)  # type: ignore[arg-type]
    except (OSError, MemoryError) as error:
        sender.send(error)
        raise


def _unpacked(arrays: Any, question: Question) -> Answer:
    ids = [arrays[f"ids.{place}"] for place in range(len(question.texts))]
    logits = [arrays[f"logits.{place}"] for place in range(len(question.sequences))]
    greedy = [arrays[f"greedy.{place}"] for place in range(len(question.sequences))]
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
        raise MemoryError(f"llama.cpp has no memory for {question.model.name}")
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
    """Logits of one sequence's last places from an empty cache, and ``count`` tokens after it."""
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
    """Logits (at most PLACES, V) of the last of these tokens, which go to the cache's places from
    ``start`` on."""
    wanted = min(len(ids), PLACES)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place] = token
        batch.pos[place] = start + place
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = place >= len(ids) - wanted
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if code != 0:
        raise LlamaCppFailed(f"llama_decode ended with {code}")
    flat = llama_cpp.llama_get_logits(context)
    return np.ctypeslib.as_array(flat, (wanted, size)).astype(np.float32)
