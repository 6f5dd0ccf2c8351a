"""llama.cpp's low-level calls behind typed classes: model, adapter, context.

Besides this file only its neighbours that are about one thing each import llama_cpp; a test
names them. Nothing here knows of prompts, requests or events; every pointer that llama.cpp
hands out is checked and is given back by ``close``. llama-cpp-python's own classes are not
used: they do not notice a failed adapter, copy the logits of every token into Python, and
sample there.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp

from desktop_app.errors import UserError
from desktop_app.inference.engine import CellType
from desktop_app.inference.fit import batch_of
from desktop_app.inference.parked_states import State

_DEBUG: Final = 1
_CONTINUED: Final = 5
_SPLITS_FROM: Final = 257
"""Cells in use, from which on llama.cpp divides the attention of a single token among the
threads and rounds by how many they are. (It looks at cells in blocks of 256, and divides two.)"""
_BLOCK_ROWS: Final = 64
"""Tokens read at once from which on llama.cpp computes attention on a processor in blocks."""


class NoRoomError(UserError):
    """The cells of the context are all taken."""

    def __init__(self) -> None:
        super().__init__("The model's context is full.", hint="Begin a new conversation.")


class LoadCancelledError(Exception):
    """The person has given up waiting for a model."""


class AbortedError(Exception):
    """``Context.abort`` was called during a computation."""


class Model:
    """A GGUF file in memory.

    Args:
        path: checked by ``read_header`` before: llama.cpp trusts what it reads.
        on_progress: called with 0..1, on the calling thread; False gives up.
        repack: whether weights get a second copy for the processor's vector units.
        gpu_layers: how many layers go to graphics memory, counted from the last.

    Raises:
        UserError: llama.cpp cannot load it.
        LoadCancelledError: ``on_progress`` has given up.
    """

    def __init__(
        self,
        path: Path,
        on_progress: Callable[[float], bool],
        *,
        repack: bool = True,
        gpu_layers: int = 0,
    ) -> None:
        is_cancelled = False

        def progress(fraction: float, _: object) -> bool:
            nonlocal is_cancelled
            is_cancelled = not on_progress(fraction)
            return not is_cancelled

        _start_backend()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = repack
        params.n_gpu_layers = gpu_layers
        params.progress_callback = callback = llama_cpp.llama_progress_callback(progress)
        pointer = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        del callback  # it had to outlive the call
        if not pointer and is_cancelled:
            raise LoadCancelledError
        if not pointer:
            raise UserError(
                f"llama.cpp could not load {path.name}.",
                hint="It may be of a kind that is newer than this program.",
            )
        self._on_processor = not gpu_layers
        self.pointer: Any = pointer
        self.vocab: Any = llama_cpp.llama_model_get_vocab(pointer)
        self.batch: Final = batch_of(int(llama_cpp.llama_model_size(pointer)), gpu_layers)
        """Tokens of a prompt to read in one call."""

    @property
    def training_context(self) -> int:
        """Tokens the model was trained to look back on."""
        return int(llama_cpp.llama_model_n_ctx_train(self.pointer))

    @property
    def can_forget(self) -> bool:
        """Whether the end of a sequence can be cut off; recurrent states cannot be."""
        return not (
            llama_cpp.llama_model_is_recurrent(self.pointer)
            or llama_cpp.llama_model_is_hybrid(self.pointer)
        )

    @property
    def can_be_filled(self) -> bool:
        """Whether tokens may be read that are cut off again, on a processor."""
        has_window = int(llama_cpp.llama_model_n_swa(self.pointer)) > 0
        return self._on_processor and self.can_forget and not has_window

    def is_end_of_generation(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class Adapter:
    """A LoRA adapter in memory, for one model. It must fit: see ``adapter_check``.

    Raises:
        UserError: llama.cpp refuses it.
    """

    def __init__(self, model: Model, path: Path) -> None:
        pointer = llama_cpp.llama_adapter_lora_init(model.pointer, os.fsencode(path))
        if not pointer:  # llama-cpp-python compares with None and crashes at the first token
            raise UserError(f"llama.cpp refused the adapter {path.name}; its log says why.")
        self.pointer: Any = pointer

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_adapter_lora_free(self.pointer)
            self.pointer = None


class Context:
    """A model's working memory: cells that hold the tokens of several sequences.

    The sequences share their cells, so a copied prefix costs nothing. What is computed does not
    depend on ``use_threads``: where llama.cpp would round otherwise, all threads compute.

    Args:
        threads: that compute at most.
        cell_type: how keys and values are kept; "q8_0" needs flash attention, which llama.cpp
            otherwise chooses by itself where the device can.

    Raises:
        UserError: there is not enough memory.
    """

    def __init__(
        self,
        model: Model,
        cells: int,
        sequences: int,
        threads: int,
        cell_type: CellType = "f16",
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        if cell_type == "q8_0":
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        # Logits of the last token of each sequence are all that is ever asked for. Room for
        # those of every token of a batch would be 300 MB with a vocabulary of 150,000.
        params.n_outputs_max = sequences
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = model.batch
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._abort_flag = ctypes.create_string_buffer(2)
        params.abort_callback, params.abort_callback_data = _flag_reader(self._abort_flag)
        pointer = llama_cpp.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise UserError(
                f"There is not enough memory for a context of {cells:,} tokens.",
                hint="Close other programs, or choose a shorter context or a smaller model.",
            )
        self.pointer: Any = pointer
        self.cells = int(llama_cpp.llama_n_ctx(pointer))
        self.state_format: Final = f"llama-cpp-python {llama_cpp.__version__}, {cell_type}"
        """What a saved state depends on, besides the model."""
        self._memory = llama_cpp.llama_get_memory(pointer)
        self.window: Final = int(llama_cpp.llama_model_n_swa(model.pointer))
        """Tokens that layers with a sliding window look back on; 0 where there are none."""
        self.batch: Final = model.batch
        self._batch = _Batch(model.batch, sequences)
        self._all = self._writing = self._side_by_side = self._reading = threads
        self._used = 0  # cells, at most: those that were cut off are counted too
        self._splits = cell_type == "f16"
        self._fills = cell_type == "f16" and model.can_be_filled
        self._set = threads, threads

    def read(self, tokens: Sequence[int], position: int, sequence: int) -> None:
        """Compute tokens of one sequence, with logits at the last.

        Raises:
            NoRoomError: no cells are left; nothing has changed.
            AbortedError: the sequence's cells from ``position`` on are to be cut off.
        """
        if self.is_sooner_at_once(len(tokens), position):
            filler = _BLOCK_ROWS - len(tokens)
            try:
                self._read(tokens, position, sequence, filler)
            except NoRoomError:  # there may be for the tokens alone
                pass
            else:
                self.cut(sequence, position + len(tokens))
                self._used -= filler
                return
        self._read(tokens, position, sequence)

    def is_sooner_at_once(self, count: int, position: int) -> bool:
        """Whether so few tokens behind so many others are read as a whole block, with filler."""
        return self._fills and is_read_sooner_with_filler(count, position)

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Compute one token of each sequence, with logits at each. Raises as ``read``."""
        batch = self._batch.of_steps(tokens, positions, sequences)
        self._decode(batch, len(tokens), self._side_by_side)

    @property
    def has_choice(self) -> bool:
        """Whether single tokens are computed with the threads they were told to."""
        return not self._splits or self._used < _SPLITS_FROM

    def shortest(self, sequence: int) -> int:
        """The least length that a sequence can be cut to and still be gone on with.

        Of a restored sequence, layers with a sliding window hold the last window only.
        """
        first = int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))
        return 0 if first <= 0 else first + self.window - 1

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens from ``length`` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make ``target`` the first ``length`` tokens of ``source``, sharing its cells."""
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, length)

    def clear(self) -> None:
        """Forget all sequences."""
        llama_cpp.llama_memory_clear(self._memory, False)
        self._used = 0

    def save(self, sequence: int) -> State:
        """A copy of what a sequence's cells hold."""
        size = llama_cpp.llama_state_seq_get_size(self.pointer, sequence)
        state: State = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self.pointer, state, size, sequence)
        return state

    def restore(self, sequence: int, state: State) -> bool:
        """Fill free cells with what ``save`` copied; False where they are too few."""
        written = llama_cpp.llama_state_seq_set_data(self.pointer, state, len(state), sequence)
        self._used += 1 + int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))
        return bool(written)

    def use_adapter(self, adapter: Adapter | None, scale: float) -> None:
        """Compute with this adapter from now on. Cells computed with another stay as they are."""
        if adapter is None:
            failed = llama_cpp.llama_set_adapters_lora(self.pointer, None, 0, None)
        else:
            pointers = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter.pointer)
            scales = (ctypes.c_float * 1)(scale)
            failed = llama_cpp.llama_set_adapters_lora(self.pointer, pointers, 1, scales)
        if failed:
            raise UserError("llama.cpp refused to use the adapter; its log says why.")

    def use_threads(self, writing: int, side_by_side: int, reading: int) -> None:
        """Threads that compute one token, one of each of several sequences, and a prompt.

        llama.cpp knows two numbers, one for single tokens and one for all larger batches.
        """
        self._writing, self._side_by_side, self._reading = writing, side_by_side, reading

    def wait(self) -> None:
        """Until the last computation has ended; sampling waits by itself."""
        llama_cpp.llama_synchronize(self.pointer)

    def abort(self) -> None:
        """End the computation that runs, from any thread."""
        self._abort_flag[0] = b"\1"

    def allow(self) -> None:
        """Take ``abort`` back."""
        self._abort_flag[0] = b"\0"

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None

    def _read(self, tokens: Sequence[int], position: int, sequence: int, filler: int = 0) -> None:
        batch = self._batch.of_run(tokens, position, sequence, filler)
        self._decode(batch, len(tokens) + filler, self._reading)

    def _decode(self, batch: Any, count: int, side_by_side: int) -> None:
        self._used += count
        threads = self._writing if self.has_choice else self._all, side_by_side
        if threads != self._set:
            self._set = threads
            llama_cpp.llama_set_n_threads(self.pointer, *threads)
        result = llama_cpp.llama_decode(self.pointer, batch)
        if result == 0:
            return
        if result == 1:
            raise NoRoomError
        if result == 2:
            raise AbortedError
        raise UserError("The model failed while it was computing; the log says more.")


def is_read_sooner_with_filler(count: int, position: int) -> bool:
    """Whether tokens behind ``position`` others are read sooner with filler, as a whole block.

    A token's other work is the unit. Its attention to a cell costs 6e-4 of it alone and 2e-4 in a
    block: measured with 0.5B on two cores; smaller models gain more.
    """
    alone = count * (1 + 6e-4 * position)
    return count < _BLOCK_ROWS and alone > _BLOCK_ROWS * (1 + 2e-4 * position)


def physical_cores() -> int:
    """Cores this process may use, hyperthreads not counted: two on one core slow each other."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores: set[tuple[str, str]] = set()
    try:
        blocks = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        for block in blocks.split("\n\n"):
            pairs = (line.partition(":") for line in block.splitlines())
            entry = {key.strip(): value.strip() for key, _, value in pairs}
            number = entry.get("processor", "")
            if "core id" in entry and (allowed is None or int(number) in allowed):
                cores.add((entry.get("physical id", ""), entry["core id"]))
    except (OSError, ValueError):
        pass
    if cores:
        return len(cores)
    logical = len(allowed) if allowed else os.cpu_count() or 1
    return logical if sys.platform == "darwin" else math.ceil(logical / 2)


class _Batch:
    """The arrays of a ``llama_batch``, made once and filled again and again."""

    def __init__(self, tokens: int, sequences: int) -> None:
        self._tokens = (ctypes.c_int32 * tokens)()
        self._positions = (ctypes.c_int32 * tokens)()
        self._counts = (ctypes.c_int32 * tokens)(*(1,) * tokens)
        self._wanted = (ctypes.c_int8 * tokens)()  # where logits are wanted
        self._numbers = (ctypes.c_int32 * sequences)(*range(sequences))
        pointer = ctypes.POINTER(ctypes.c_int32)
        step = ctypes.sizeof(ctypes.c_int32)
        first = ctypes.addressof(self._numbers)
        self._pointers = [
            ctypes.cast(first + step * number, pointer) for number in range(sequences)
        ]
        self._sequences = (pointer * tokens)()
        self._none_wanted: list[ctypes.c_int8 | int] = [0] * tokens
        self._rows: Sequence[int] = ()
        self._batch = llama_cpp.llama_batch(
            token=self._tokens,
            pos=self._positions,
            n_seq_id=self._counts,
            seq_id=self._sequences,
            logits=self._wanted,
        )

    def of_run(self, tokens: Sequence[int], position: int, sequence: int, filler: int) -> Any:
        """Logits are wanted at the last token; behind it comes so much that nobody asks for."""
        last = len(tokens) - 1
        count = len(tokens) + filler
        self._tokens[:count] = [*tokens, *[tokens[last]] * filler]
        self._positions[:count] = list(range(position, position + count))
        self._sequences[:count] = [self._pointers[sequence]] * count
        self._wanted[:count] = self._none_wanted[:count]
        self._wanted[last] = 1
        self._rows = ()
        self._batch.n_tokens = count
        return self._batch

    def of_steps(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> Any:
        count = len(tokens)
        self._tokens[:count] = list(tokens)
        self._positions[:count] = list(positions)
        if sequences != self._rows:  # they stay the same from token to token
            self._rows = sequences
            self._sequences[:count] = [self._pointers[sequence] for sequence in sequences]
            self._wanted[:count] = [1] * count
            self._batch.n_tokens = count
        return self._batch


def _flag_reader(flag: ctypes.Array[ctypes.c_char]) -> tuple[Any, Any]:
    """A native function that llama.cpp asks between two steps whether to go on.

    libc's strlen is one: it is 0 for an empty text, so writing a byte to the text aborts.
    A Python function would have to wait for the interpreter hundreds of times a token.
    """
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
    function = ctypes.cast(library.strlen, llama_cpp.ggml_abort_callback)
    return function, ctypes.cast(flag, ctypes.c_void_p)


def _log(level: int, text: bytes, _: object) -> None:
    """llama.cpp's messages go to stderr, which the client keeps as the engine's log."""
    if level not in (_DEBUG, _CONTINUED):
        sys.stderr.write(text.decode("utf-8", "replace"))


_LOG: Final = llama_cpp.llama_log_callback(_log)  # kept: the library holds only its address


def _start_backend() -> None:
    llama_cpp.llama_log_set(_LOG, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
