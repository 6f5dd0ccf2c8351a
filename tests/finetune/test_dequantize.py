"""Our blocks are gguf's blocks, and ggml's own, to the last bit."""

import gguf
import numpy as np
import pytest
import torch

from finetune import dequantize as module
from finetune import ggml
from finetune.dequantize import BLOCKS, KINDS, dequantize

kinds = pytest.mark.parametrize("kind", KINDS)


def random_bytes(kind: str, rows: int = 24, blocks: int = 8) -> np.ndarray:
    """Any bytes at all: scales that are infinite or no number among them."""
    size = BLOCKS[kind][1] * (256 if BLOCKS[kind][0] == 1 else 1)
    generator = np.random.default_rng(sum(map(ord, kind)))
    return generator.integers(0, 256, (rows, blocks * size), dtype=np.uint8)


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    alike = ours.view(np.uint32) == theirs.view(np.uint32)
    return bool((alike | (np.isnan(ours) & np.isnan(theirs))).all())


@kinds
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, of infinite scales
def test_any_bytes_become_what_gguf_and_ggml_make_of_them(kind: str) -> None:
    rows = random_bytes(kind)
    ours = dequantize(torch.from_numpy(rows), kind).numpy()
    assert same_bits(ours, gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]))
    columns = rows.shape[1] // BLOCKS[kind][1] * BLOCKS[kind][0]
    assert same_bits(ours, ggml.to_floats(rows, kind, columns))


@kinds
def test_half_precision_is_float32_rounded_once(kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((4, 512), dtype=np.float32)
    stored = torch.from_numpy(ggml.to_blocks(values, kind))
    wide = dequantize(stored, kind)
    assert torch.equal(dequantize(stored, kind, torch.bfloat16), wide.bfloat16())
    assert float((wide - torch.from_numpy(values)).abs().max()) < 1.0  # it is the right row


def test_pieces_and_leading_dimensions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((24, 256), dtype=np.float32)
    rows = torch.from_numpy(ggml.to_blocks(values, "Q4_0"))
    whole = dequantize(rows, "Q4_0")
    monkeypatch.setattr(module, "CHUNK", {"cpu": 96})  # three blocks at a time
    assert torch.equal(dequantize(rows.view(4, 6, -1), "Q4_0"), whole.view(4, 6, -1))
    assert dequantize(rows[:0], "Q4_0").shape == (0, 256)


def test_a_block_of_q4_0_by_hand() -> None:
    # d = 0.5; byte i holds i in its low half (numbers 0-15) and 15 - i in its high half.
    head = np.array([0.5], np.float16).view(np.uint8)
    packed = np.array([i | (15 - i) << 4 for i in range(16)], np.uint8)
    found = dequantize(torch.from_numpy(np.concatenate([head, packed])[None]), "Q4_0")[0]
    assert found[:16].tolist() == [0.5 * (i - 8) for i in range(16)]
    assert found[16:].tolist() == [0.5 * (7 - i) for i in range(16)]
