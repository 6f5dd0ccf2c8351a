"""The memory plan: its arithmetic, the choice it makes, and the 8 GB a 4B model must train in."""

from math import prod
from pathlib import Path

import pytest
import torch

from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header
from finetune.contract.recipe import Recipe
from finetune.dequantize import BLOCKS
from finetune.memory_plan import MemoryPlan, plan_memory
from tests import tiny_models

GIGA = 1_000_000_000


def qwen3_4b(kind: str = "Q4_K", better: str = "Q6_K") -> GgufHeader:
    """The header of a Qwen 3 of 4 billion in llama.cpp's Q4_K_M: half of the values and of the
    down projections, and the tied token table, are Q6_K."""
    layers, width, feed_forward, heads, groups, head, words = 36, 2560, 9728, 32, 8, 128, 151_936
    tensors: dict[str, TensorInfo] = {}

    def add(name: str, columns: int, rows: int, kind: str) -> None:
        numbers, size = BLOCKS[kind]
        count = columns * rows
        tensors[name] = TensorInfo(name, (columns, rows), kind, 0, count // numbers * size)

    add("token_embd.weight", width, words, better)
    for layer in range(layers):
        mixed = better if layer % 2 else kind
        for stem, columns, rows, of_kind in (
            ("attn_q", width, heads * head, kind), ("attn_k", width, groups * head, kind),
            ("attn_v", width, groups * head, mixed), ("attn_output", heads * head, width, kind),
            ("ffn_gate", width, feed_forward, kind), ("ffn_up", width, feed_forward, kind),
            ("ffn_down", feed_forward, width, mixed),
        ):  # fmt: skip
            add(f"blk.{layer}.{stem}.weight", columns, rows, of_kind)
    metadata = {
        "general.architecture": "qwen3", "qwen3.embedding_length": width,
        "qwen3.block_count": layers, "qwen3.feed_forward_length": feed_forward,
        "qwen3.attention.head_count": heads, "qwen3.attention.head_count_kv": groups,
        "qwen3.attention.key_length": head,
    }  # fmt: skip
    return GgufHeader(3, metadata, tensors, 0)


def planned(gigabytes: float, header: GgufHeader | None = None) -> MemoryPlan:
    return plan_memory(
        header or qwen3_4b(), Recipe(), "cuda", torch.bfloat16, int(gigabytes * GIGA)
    )


def test_a_4b_model_in_q4_k_m_trains_within_8_gb() -> None:
    header = qwen3_4b()
    assert sum(prod(info.shape) for info in header.tensors.values()) == pytest.approx(4.02e9, 1e-2)
    plan = planned(8)
    assert plan.held == "blocks"
    assert not plan.copies
    assert plan.fits
    assert plan.total < 7 * GIGA
    assert plan.tokens >= 256
    assert "quantised blocks" in plan.in_words()
    assert "of 8.00 GB free" in plan.in_words()


def test_the_parts_of_the_plan_by_hand() -> None:
    plan = planned(8)
    # Stored: 36 layers of 2560 x (4096 + 1024) + 4096 x 2560 + 2 x 2560 x 9728 numbers in blocks
    # of 144 bytes for 256, as much again of values and down projections half in 210 bytes; and
    # 151936 x 2560 in 210.
    q4 = 36 * (2560 * 5120 + 4096 * 2560 + 2 * 2560 * 9728) * 144 // 256
    mixed = 18 * (2560 * 1024 + 9728 * 2560) * (144 + 210) // 256
    assert plan.weights == q4 + mixed + 151_936 * 2560 * 210 // 256
    # A rank: 7 matrices' rows and columns. Three roles of 16, 8 and 8; the first in training.
    each = 36 * (2560 + 4096 + 2 * (2560 + 1024) + 4096 + 2560 + 3 * (2560 + 9728))
    assert plan.adapters == each * (4 * (16 + 8 + 8) + 12 * 16)
    # Keys and values of 32 samples of 256 + 96 tokens (evaluation's), 8 heads of 128, in halves.
    assert plan.rows == 32
    assert plan.activations == 32 * 352 * 36 * 2 * 1024 * 2
    roomy = planned(60)
    assert roomy.rows == 64
    assert roomy.activations >= 64 * 352 * 36 * 2 * 1024 * 2


def test_the_first_way_that_fits_comfortably_is_taken() -> None:
    ways = [(p.held, p.copies, p.forgets) for p in map(planned, (6, 12, 16, 24, 60))]
    assert ways == [
        ("blocks", False, True), ("blocks", False, False), ("dense", False, True),
        ("dense", False, False), ("dense", True, False),
    ]  # fmt: skip
    for free in (12, 16, 24, 60):
        assert planned(free).total <= 0.8 * free * GIGA
    assert not planned(5).fits


def test_blocks_are_no_choice_where_they_save_nothing() -> None:
    assert planned(8, qwen3_4b("F16", "F16")).held == "dense"
    header = qwen3_4b()
    plan = plan_memory(
        header, Recipe(), "cuda", torch.bfloat16, 8 * GIGA, in_blocks=False
    )  # a Hugging Face folder
    assert (plan.held, plan.fits) == ("dense", False)


def test_where_the_system_does_not_say_what_is_free_the_usual_way_is_taken() -> None:
    plan = plan_memory(qwen3_4b(), Recipe(), "mps", torch.float32, 0)
    assert (plan.held, plan.copies) == ("dense", True)


def test_a_small_model_on_a_processor_is_held_dense_with_the_usual_batch(tmp_path: Path) -> None:
    header = read_header(tiny_models.write_model(tmp_path / "m.gguf", quantization="Q8_0"))
    plan = plan_memory(header, Recipe(), "cpu", torch.float32, 4 * GIGA)
    assert (plan.held, plan.copies, plan.tokens) == ("dense", True, 1024)
