"""ggml's conversions called from here are those of gguf's reference code."""

import gguf
import numpy as np
import pytest

from finetune import ggml


@pytest.fixture(scope="module")
def numbers() -> ggml.Floats:
    return np.random.default_rng(0).standard_normal((6, 512), dtype=np.float32)


@pytest.mark.parametrize("kind", ggml.WRITABLE)
def test_blocks_are_read_as_the_reference_reads_them(numbers: ggml.Floats, kind: str) -> None:
    blocks = ggml.to_blocks(numbers, kind)
    assert blocks.shape == (6, ggml.row_bytes(kind, 512))
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(ggml.to_floats(blocks, kind, 512), theirs.reshape(6, 512))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_blocks_are_written_as_the_reference_writes_them(numbers: ggml.Floats, kind: str) -> None:
    ours = ggml.to_floats(ggml.to_blocks(numbers, kind), kind, 512)
    block = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    theirs = gguf.quants.dequantize(block, gguf.GGMLQuantizationType[kind]).reshape(6, 512)
    # ggml looks for the best scale of a block where the reference takes the plain one.
    assert np.square(ours - numbers).mean() <= 1.01 * np.square(theirs - numbers).mean()


def test_every_type_that_the_trainer_reads_is_read_here_too() -> None:
    for kind in gguf.quants._type_traits:
        assert ggml.is_readable(kind.name), kind


def test_a_type_without_a_way_back_is_said_to_be_one() -> None:
    assert not ggml.is_readable("Q8_1")
    with pytest.raises(NotImplementedError):
        ggml.to_floats(np.zeros((1, 40), np.uint8), "Q8_1", 32)
