"""Does a model fit, and with how long a context? Sums from the file's header; no llama.cpp here.

    needed = weights + cells (keys and values of the context) + work space + adapters

``measure`` reads from the header what the sum is made of, ``plan`` compares it with what is
free now and chooses the context's length, the type of the cells, whether weights are laid out
for the processor, and how many layers go to graphics memory. The sums are what llama.cpp
0.3.36's buffers come to; ``tests/desktop_app/inference/test_fit.py`` compares them with what a
process then uses.

Rules, each with its measurement (two cores, AVX-512):

* Flash attention is always left to llama.cpp, which uses it where the device can: at 2,000
  tokens it reads prompts 10-30 % faster on a processor and needs no scores in memory
  (heads x batch x cells x 4 bytes: 370 MB of a 0.5B model with 16,000 cells).
* Cells in Q8_0 take 53 % of those in F16, but at 2,000 tokens a processor writes at half the
  speed and reads prompts at a third. They are chosen only where F16 leaves less than
  ``COMFORTABLE`` tokens.
* Weights laid out anew for the processor's vector units ("repacked") are a second copy. It
  is left out before the context is cut short.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from desktop_app.inference.engine import CellType, MemoryNeed
from finetune.contract.gguf_file import GgufHeader, TensorInfo

BATCH: Final = 512
"""Tokens computed in one call at most: llama.cpp's own default."""
BATCH_OF_LARGE: Final = 128
LARGE_MODEL: Final = 256 << 20
"""Bytes of weights."""
SEQUENCES: Final = 9
"""Completions computed in one batch at most."""
SPARE_CELLS: Final = 2048
"""Cells beyond the context's length, for the second and further completions of a prompt."""

LONGEST: Final = 8192
"""Tokens of context without being asked: as many take a processor minutes to read."""
LONGEST_ON_GPU: Final = 32_768
COMFORTABLE: Final = 4096
"""Long enough for an evening's chat."""
SHORTEST: Final = 2048
UNKNOWN_TRAINING: Final = 4096
"""For files that do not say how far their model was trained to look back."""

LONG_TABLE: Final = "rope_factors_long.weight"
"""A table of rotary frequencies that llama.cpp takes as soon as there are more cells than the
model's original context; the trainer, and a context up to that, go by the short one."""

MIB: Final = 1 << 20
_BLOCK: Final = 32
_CELL_STEP: Final = 256
"""llama.cpp rounds the number of cells up to a multiple of this."""
_BYTES_OF: Final[Mapping[CellType, float]] = {"f16": 2.0, "q8_0": 34 / 32}
_TOKEN_BYTES: Final = 150
"""Of each token and each merge in llama.cpp's tables: measured with 8,000 to 150,000 tokens."""
_PROGRAM: Final = 12 * MIB
"""Code that is touched, threads, small buffers."""
_REPACKED: Final = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_REPACKED_ON_ARM: Final = _REPACKED | {"Q8_0", "Q5_K", "Q6_K"}
_LEAST_SPARE: Final = 256 * MIB
_MOST_SPARE: Final = 1024 * MIB


@dataclass(frozen=True)
class Measures:
    """What a model's memory is made of. Sizes in bytes."""

    layer_weights: tuple[int, ...]
    input_weights: int
    """The table of embeddings, which stays in ordinary memory."""
    output_weights: int
    """What comes after the last layer."""
    repacked: int
    """Of all weights, those that get a second copy."""
    layer_numbers: tuple[int, ...]
    """Numbers that each layer keeps of a token: keys and values."""
    width: int
    feed_forward: int
    """Numbers computed side by side in a layer, of all experts that work at once."""
    vocabulary: int
    tables: int
    """The vocabulary's tokens and merges in memory."""
    trained: int
    """Tokens the model was trained to look back on."""
    most_cells: int = 1 << 31
    """More of them, and llama.cpp would turn positions by another table than was trained with."""
    has_blocks: bool = True
    """Whether each head's keys and values are whole blocks of Q8_0."""
    adapters: int = 0

    @property
    def weights(self) -> int:
        return self.input_weights + self.output_weights + sum(self.layer_weights)

    def cells_of(self, context_length: int) -> int:
        """Cells for a context of this length, as many as llama.cpp makes."""
        cells = -(-(context_length + SPARE_CELLS) // _CELL_STEP) * _CELL_STEP
        return min(cells, self.most_cells)


@dataclass(frozen=True)
class Machine:
    """What is free now, in bytes; what the model before holds counts as free."""

    free: int
    graphics: tuple[int, ...] = ()
    """Of each device that layers can go to."""


@dataclass(frozen=True)
class Plan:
    """How a model is to be loaded. ``need`` is of ordinary memory, ``graphics`` of the other."""

    context_length: int
    cells: int
    cell_type: CellType
    repack: bool
    gpu_layers: int
    need: MemoryNeed
    graphics: int
    free: int
    fits: bool


def batch_of(weights: int, gpu_layers: int) -> int:
    """Tokens of a prompt that a model reads in one call.

    By the file alone and not by the clock, since sums of floats depend on it. On a processor a
    model of 0.5B reads 128 at a time as fast as 512, stops sooner, shows progress more often and
    needs a quarter of the work space.
    """
    return BATCH_OF_LARGE if weights > LARGE_MODEL and not gpu_layers else BATCH


def measure(header: GgufHeader, *, is_arm: bool = False, repacks: bool = True) -> Measures:
    """Read from a model's header what its memory is made of.

    Args:
        is_arm: which weights llama.cpp lays out anew depends on the processor.
        repacks: whether it does so at all on this one (x86 without AVX2 does not).
    """
    layers = int(_number(header, "block_count", 0))
    weights: dict[int, int] = defaultdict(int)
    input_weights = output_weights = repacked = 0
    types = _REPACKED_ON_ARM if is_arm else _REPACKED
    for name, tensor in header.tensors.items():
        number = _layer_of(name)
        if number is not None:
            weights[min(number, layers - 1)] += tensor.size
        elif name.startswith("output"):
            output_weights += tensor.size
        else:
            input_weights += tensor.size
        if repacks and tensor.type_name in types and _is_multiplied(name, tensor):
            repacked += tensor.size
    width = int(_number(header, "embedding_length", 0))
    feed_forward = _largest(header, "feed_forward_length")
    experts = _largest(header, "expert_used_count")
    metadata = header.metadata
    trained = int(_number(header, "context_length", UNKNOWN_TRAINING)) or UNKNOWN_TRAINING
    most_cells = Measures.most_cells
    if LONG_TABLE in header.tensors:
        original = int(_number(header, "rope.scaling.original_context_length", trained))
        most_cells = max(1, original // _CELL_STEP) * _CELL_STEP
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    merges = metadata.get("tokenizer.ggml.merges", ())
    return Measures(
        layer_weights=tuple(weights[number] for number in range(layers)),
        input_weights=input_weights,
        output_weights=output_weights,
        repacked=repacked,
        layer_numbers=tuple(_numbers_per_token(header, layers)),
        width=width,
        feed_forward=max(feed_forward, experts * _largest(header, "expert_feed_forward_length")),
        vocabulary=len(tokens),
        tables=_TOKEN_BYTES * (len(tokens) + len(merges)),
        trained=min(trained, most_cells),
        most_cells=most_cells,
        has_blocks=all(length % _BLOCK == 0 for length in _head_lengths(header, layers)),
    )


def needed(
    measures: Measures,
    context_length: int,
    cell_type: CellType,
    *,
    repack: bool,
    batch: int | None = None,
) -> MemoryNeed:
    """The sum for what of a model is in ordinary memory.

    Args:
        batch: tokens computed at once; without it, those of a model that is there wholly.
    """
    batch = batch or batch_of(measures.weights, 0)
    cells = measures.cells_of(context_length)
    numbers = sum(measures.layer_numbers)
    return MemoryNeed(
        weights=measures.weights + (measures.repacked if repack else 0),
        cells=int(cells * numbers * _BYTES_OF[cell_type]),
        work=_work(measures, cells, batch) + measures.tables + _PROGRAM,
        adapters=measures.adapters,
    )


def plan(measures: Measures, machine: Machine, wanted: int = 0) -> Plan:
    """The best way to load a model into what is free.

    Args:
        wanted: tokens of context; 0 chooses. Never more than the model was trained for.

    Returns:
        A plan with ``fits`` False where there is none: the smallest one, for who loads anyway.
    """
    if machine.graphics:
        on_gpu = _plan_with_graphics(measures, machine, wanted)
        if on_gpu.gpu_layers:
            return on_gpu
    usable = machine.free - spare(machine.free)
    lengths = _lengths(measures, wanted, LONGEST)
    comfortable = [n for n in lengths if n >= min(COMFORTABLE, lengths[0])]
    smallest: CellType = "q8_0" if measures.has_blocks else "f16"
    choices: list[tuple[int, CellType, bool, bool]] = [
        *((length, "f16", repack, True) for length in comfortable for repack in (True, False)),
        (comfortable[-1], "f16", False, False),
        *((length, smallest, False, False) for length in lengths[len(comfortable) - 1 :]),
    ]
    for length, cell_type, repack, modest in choices:
        need = needed(measures, length, cell_type, repack=repack)
        # Other programs may want memory, too: a long context is no reason to take it all.
        is_modest = need.cells <= (usable - need.total + need.cells) // 2
        if need.total <= usable and (is_modest or not modest):
            cells = measures.cells_of(length)
            return Plan(length, cells, cell_type, repack, 0, need, 0, machine.free, True)
    need = needed(measures, lengths[-1], smallest, repack=False)
    cells = measures.cells_of(lengths[-1])
    return Plan(lengths[-1], cells, smallest, False, 0, need, 0, machine.free, False)


def spare(free: int) -> int:
    """Bytes of what is free that are left to others, and to what cannot be foreseen."""
    return min(_MOST_SPARE, max(_LEAST_SPARE, free // 10))


def refusal(name: str, plan: Plan) -> str:
    """The sentence for a model that does not fit, with the sum."""
    need = plan.need
    parts = f"weights {_mib(need.weights)} + context {_mib(need.cells)}"
    parts += f" + work space {_mib(need.work + need.adapters)}"
    return (
        f"{name} needs {_mib(need.total)} MB of memory ({parts}), "
        f"and only {_mib(max(0, plan.free - spare(plan.free)))} MB are free for it."
    )


# --- the parts of the sum ----------------------------------------------------------------------


def _work(measures: Measures, cells: int, batch: int) -> int:
    """Bytes that a batch takes on its way through a layer, and the last one's logits.

    The feed-forward layer's gate, input and product stand beside the layer's own input and
    output; with flash attention, attention adds only the mask, in F16.
    """
    in_a_layer = batch * 4 * 3 * (measures.feed_forward + measures.width)
    logits = 2 * SEQUENCES * measures.vocabulary * 4  # computed, and copied for the sampler
    mask = batch * cells * 2
    return in_a_layer + logits + mask


def _numbers_per_token(header: GgufHeader, layers: int) -> Iterator[int]:
    """Keys and values of each layer. Recurrent layers have heads for none."""
    heads = _per_layer(header, "attention.head_count", layers, 0)
    kv_heads = _per_layer(header, "attention.head_count_kv", layers, None)
    key, value = _head_lengths(header, layers)
    for layer in range(layers):
        count = kv_heads[layer]
        yield (heads[layer] or 0 if count is None else count) * (key + value)


def _head_lengths(header: GgufHeader, layers: int) -> tuple[int, int]:
    """Numbers of one head's key and value."""
    width = int(_number(header, "embedding_length", 0))
    heads = max((n or 0 for n in _per_layer(header, "attention.head_count", layers, 0)), default=0)
    each = width // heads if heads else 0
    return (
        int(_number(header, "attention.key_length", each)),
        int(_number(header, "attention.value_length", each)),
    )


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 1 and parts[1].isdigit() else None


def _is_multiplied(name: str, tensor: TensorInfo) -> bool:
    """Matrices of which llama.cpp makes a second copy; a table that is looked up is none."""
    return len(tensor.shape) >= 2 and tensor.shape[1] % 8 == 0 and not name.startswith("token_embd")


def _number(header: GgufHeader, name: str, default: float) -> float:
    value = header.hyperparameter(name, default)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _per_layer(header: GgufHeader, name: str, layers: int, default: int | None) -> list[int | None]:
    """A number that a file gives once, or once for each layer."""
    value: Any = header.hyperparameter(name, default)
    if isinstance(value, list):
        numbers = [int(v) for v in value if isinstance(v, int)][:layers]
        return [*numbers, *([default] * (layers - len(numbers)))]
    return [int(value) if isinstance(value, int) else default] * layers


def _largest(header: GgufHeader, name: str) -> int:
    value = header.hyperparameter(name, 0)
    values = value if isinstance(value, list) else [value]
    return max((int(v) for v in values if isinstance(v, int | float)), default=0)


# --- choosing ----------------------------------------------------------------------------------


def _lengths(measures: Measures, wanted: int, longest: int) -> list[int]:
    """Contexts to try, the longest first: one if it was asked for, else half as long each."""
    if wanted:
        return [min(wanted, measures.trained)]
    length = min(longest, measures.trained)
    lengths = [length]
    while lengths[-1] // 2 >= SHORTEST:
        lengths.append(lengths[-1] // 2)
    return lengths


def _plan_with_graphics(measures: Measures, machine: Machine, wanted: int) -> Plan:
    """As many layers on the devices as fit; a shorter context before fewer layers.

    llama.cpp counts layers from the last one, which writes the logits.
    """
    room = sum(free - spare(free) for free in machine.graphics)
    usable = machine.free - spare(machine.free)
    lengths = _lengths(measures, wanted, LONGEST_ON_GPU)
    best: Plan | None = None
    for length in [n for n in lengths if n >= min(COMFORTABLE, lengths[0])]:
        cells = measures.cells_of(length)
        work = _work(measures, cells, BATCH) * len(machine.graphics)
        # A model whose output is its embedding has a second copy of it on the device.
        last = measures.output_weights
        if last < measures.width * measures.vocabulary // 2:
            last += measures.input_weights
        pieces = [last]
        pieces += [
            weights + cells * numbers * 2
            for weights, numbers in zip(
                reversed(measures.layer_weights), reversed(measures.layer_numbers), strict=True
            )
        ]
        taken, layers = work, 0
        for piece in pieces:
            if taken + piece > room:
                break
            taken += piece
            layers += 1
        left = len(measures.layer_weights) - max(0, layers - 1)
        stays = replace(
            measures,
            layer_weights=measures.layer_weights[:left],
            layer_numbers=measures.layer_numbers[:left],
            output_weights=0 if layers else measures.output_weights,
            repacked=0,
        )
        batch = batch_of(measures.weights, layers)
        need = needed(stays, length, "f16", repack=False, batch=batch)
        gpu = taken if layers else 0
        fits = need.total <= usable
        plan_ = Plan(length, cells, "f16", False, layers, need, gpu, machine.free, fits)
        if layers == len(pieces) and plan_.fits:
            return plan_
        if best is None or (plan_.fits, plan_.gpu_layers) > (best.fits, best.gpu_layers):
            best = plan_
    assert best is not None
    return best


def _mib(size: int) -> str:
    return f"{-(-size // MIB):,}"
