"""A GGUF becomes the same network in torch as in llama.cpp."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from finetune import gguf_weights
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.gguf_weights import load_trunk, rows_from_gguf, rows_to_gguf
from finetune.parity import Question, answer
from tests import tiny_models

SEQUENCE = tuple(range(3, 60))


def logits_of(model: torch.nn.Module, ids: tuple[int, ...]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 1e-4), ("F16", 0.02), ("Q8_0", 0.4)])
def test_torch_and_llama_cpp_compute_the_same_logits(
    tmp_path: Path, kind: str, tolerance: float
) -> None:
    # llama.cpp rounds activations to the type of the weights; the spread of the logits is 3.
    path = tiny_models.write_model(tmp_path / "m.gguf", quantization=kind)
    theirs = answer(Question(path, None, (), (SEQUENCE,))).logits[0]
    ours = logits_of(load_trunk(path), SEQUENCE)
    assert np.abs(ours - theirs).max() < tolerance


def test_query_rows_come_back_from_ggufs_order(tiny_gguf: Path) -> None:
    header = read_header(tiny_gguf)
    rows = np.arange(64 * 3).reshape(64, 3)
    stored = rows_to_gguf(header, "blk.0.attn_q", rows)
    # Head 0 has 16 rows: halves (0..7, 8..15) become pairs 0 8 1 9 ...
    assert stored[:4, 0].tolist() == [0, 24, 3, 27]
    assert (rows_from_gguf(header, "blk.0.attn_q", stored) == rows).all()
    keys = np.arange(32)
    assert (
        rows_from_gguf(header, "blk.1.attn_k", rows_to_gguf(header, "blk.1.attn_k", keys)) == keys
    ).all()
    assert (rows_to_gguf(header, "blk.0.attn_v", keys) == keys).all()


def test_an_unknown_architecture_is_a_sentence(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    tiny_models._write(writer)
    with pytest.raises(InputError, match="'mamba' can be chatted with but not trained"):
        load_trunk(tmp_path / "x.gguf")


def test_an_adapter_is_not_a_base(tmp_path: Path) -> None:
    path = tiny_models.write_adapter(tmp_path / "a.gguf")
    with pytest.raises(InputError, match="adapter"):
        load_trunk(path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny_gguf: Path) -> None:
    wide = tiny_models.TinyShape(width=128)
    path = tiny_models.write_adapter(tmp_path / "a.gguf", shape=wide)
    with pytest.raises(InputError, match="another model"):
        gguf_weights.read_adapter(path, read_header(tiny_gguf))
