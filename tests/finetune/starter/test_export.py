"""The file that llama.cpp loads is the model that torch trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from finetune.contract.chat_template import CHATML
from finetune.starter.corpus import REPOSITORIES, SOURCES
from finetune.starter.export import gguf_name, pairs_from_halves, write_gguf
from finetune.starter.model import StarterModel
from finetune.starter.tokenizer import Message, encode_plain, encode_prompt

llama_cpp = pytest.importorskip("llama_cpp")

TEXT = "Hello! 안녕하세요, 2026년이에요. 👩‍👧 it's   fine\n\n  <|im_end|> ok"


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.fixture
def exact(tmp_path: Path, model: StarterModel, tokenizer: Tokenizer) -> Path:
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, matrices="F32")
    return path


def test_logits_are_those_of_torch(exact: Path, model: StarterModel, tokenizer: Tokenizer) -> None:
    ids = encode_plain(tokenizer, TEXT)[:48]
    float32 = llama_cpp.GGML_TYPE_F32  # of the cache; its default is half precision
    llama = llama_cpp.Llama(
        str(exact), n_ctx=64, logits_all=True, type_k=float32, type_v=float32, verbose=False
    )
    try:
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)])
    finally:
        llama.close()
    with torch.no_grad():
        ours = model.logits(model(torch.tensor([ids])))[0].numpy()
    assert np.abs(ours).max() > 1
    assert np.abs(ours - theirs).max() < 1e-3


def test_token_ids_are_those_of_the_tokenizer(exact: Path, tokenizer: Tokenizer) -> None:
    llama = llama_cpp.Llama(str(exact), vocab_only=True, verbose=False)
    try:
        plain = llama.tokenize(TEXT.encode(), add_bos=False, special=False)
        prompt = "<|im_start|>user\n안녕?<|im_end|>\n<|im_start|>assistant\n"
        control = llama.tokenize(prompt.encode(), add_bos=True, special=True)
        assert llama.token_eos() == 2
    finally:
        llama.close()
    assert plain == encode_plain(tokenizer, TEXT)
    assert control == encode_prompt(tokenizer, [Message("user", "안녕?")])


def test_the_file_says_what_it_is(exact: Path) -> None:
    fields = metadata(exact)
    assert fields["general.name"] == "Attune Starter"
    assert fields["general.license"] == "cc-by-sa-4.0"
    assert "Wikipedia" in fields["general.attribution"]
    assert fields["tokenizer.chat_template"] == CHATML
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert fields["llama.context_length"] == 64


def test_the_card_travels_in_the_file(
    tmp_path: Path, model: StarterModel, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, model, tokenizer, card="# A card\n말투\n")
    fields = metadata(path)
    assert fields["attune.starter_card"] == "# A card\n말투\n"
    assert fields["general.license.link"] == "https://creativecommons.org/licenses/by-sa/4.0/"


def test_the_bundled_file_is_what_it_says(starter_model: Path) -> None:
    assert starter_model.stat().st_size <= 40_000_000
    fields = metadata(starter_model)
    assert fields["general.license"] == "cc-by-sa-4.0"
    assert fields["tokenizer.chat_template"] == CHATML
    assert fields["llama.context_length"] >= 1024
    card = starter_model.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    assert fields["attune.starter_card"] == card
    for source in SOURCES:
        assert f"{source.origin} ({source.licence})" in fields["general.attribution"]
        assert f"`{source.file}`, {REPOSITORIES[source.file]} | {source.licence}" in card


def test_quantized_matrices_stay_close_and_norms_stay_exact(
    tmp_path: Path, model: StarterModel, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "small.gguf"
    write_gguf(path, model, tokenizer)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert "output.weight" not in tensors
    for name, parameter in model.named_parameters():
        tensor = tensors[gguf_name(name)]
        weight = parameter.detach()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = pairs_from_halves(weight, model.shape.heads)
        expected = weight.numpy()
        if parameter.dim() == 1:
            assert tensor.tensor_type.name == "F32"
            assert np.array_equal(tensor.data, expected)
        else:
            assert tensor.tensor_type.name == "Q8_0"
            back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.abs(back - expected).max() < np.abs(expected).max() / 120


def test_halves_become_neighbours() -> None:
    rows = torch.arange(8.0)[:, None]
    assert pairs_from_halves(rows, heads=2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_file_appears_whole(tmp_path: Path, model: StarterModel, tokenizer: Tokenizer) -> None:
    write_gguf(tmp_path / "deep" / "model.gguf", model, tokenizer)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.gguf"]
