"""Every architecture of the table is the same network in transformers, here and in llama.cpp.

Limits: llama.cpp looks GELU up in a table of half precision (gemma3 and gpt2); with the same
rounding in torch those are as near as the others, which a test shows.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from desktop_app.inference.engine import ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.architectures import ARCHITECTURES
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import file_sha256
from finetune.contract.recipe import Quantization
from finetune.data import Encoder
from finetune.export import compare, torch_logits, write_adapter
from finetune.generate import sample
from finetune.gguf_weights import linear_stems, load_trunk, read_adapter
from finetune.merge import write_merged
from finetune.parity import Question, answer
from finetune.policy import Policy
from finetune.stage import generator_for
from finetune.vocabulary import GgufVocabulary
from tests.desktop_app.inference.asking import ask
from tests.finetune.architecture_models import SORTS, Sort, write_gguf
from tests.finetune.test_policy import filled

SEQUENCES = (tuple(range(3, 60)), tuple(range(80, 120)))
ROLES = ("sft", "ppo")
NEAR = 1e-4
TABLE_OF_HALVES = 5e-3
"""Logits of these models have a spread of 2 to 3."""

sorts = pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


def written(folder: Path, sort: Sort) -> tuple[Path, Any]:
    path = folder / f"{sort.name}.gguf"
    model = sort.make()
    return path if path.exists() else write_gguf(path, sort, model), model


def logits_of(model: torch.nn.Module, ids: tuple[int, ...] = SEQUENCES[0]) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy()


def limit(sort: Sort) -> float:
    return TABLE_OF_HALVES if sort.architecture in ("gemma3", "gpt2") else NEAR


@sorts
def test_logits_and_64_greedy_tokens_are_those_of_transformers_and_of_llama_cpp(
    folder: Path, sort: Sort
) -> None:
    path, model = written(folder, sort)
    policy = Policy(load_trunk(path))
    theirs = answer(Question(path, None, (), SEQUENCES, greedy_tokens=64))
    for own, ids, other in zip(
        torch_logits(policy, SEQUENCES), SEQUENCES, theirs.logits, strict=True
    ):
        np.testing.assert_allclose(own, logits_of(model, ids), atol=2e-5)
        assert np.abs(own - other).max() < limit(sort)
    completed = sample(
        policy, SEQUENCES, max_new_tokens=64, end_ids=(), generator=generator_for(1),
        temperature=0.0,
    )  # fmt: skip
    assert tuple(each.ids for each in completed) == theirs.greedy


def test_the_app_chats_by_the_table_of_positions_that_was_trained_with(folder: Path) -> None:
    path, _ = written(folder, SORTS["phi3 long"])
    encoder = Encoder(GgufVocabulary(path, None), None, 256)
    prompt = encoder.prompt([Message("user", "Hello")], 8)
    assert prompt is not None
    (completed,) = sample(
        Policy(load_trunk(path)), [prompt], max_new_tokens=8, generator=generator_for(1),
        end_ids=encoder.vocabulary.end_ids, temperature=0.0,
    )  # fmt: skip
    engine = LlamaEngine(threads=1)
    list(engine.load(ModelRef("base", str(path), file_sha256(path))))
    said = ask(engine, "Hello", max_tokens=8, temperature=0.0).text
    engine.close()
    assert said == encoder.vocabulary.text_of(completed.ids)


class RoundedGelu(torch.nn.Module):
    """ggml's GELU on a processor: from a table of half precision between -10 and 10."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = F.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, halves))


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_with_llama_cpps_table_for_gelu_torch_is_as_near_as_elsewhere(
    folder: Path, name: str
) -> None:
    path, _ = written(folder, SORTS[name])
    model: Any = load_trunk(path)
    for block in model.transformer.h if name == "gpt2" else model.model.layers:
        setattr(block.mlp, "act" if name == "gpt2" else "act_fn", RoundedGelu())
    theirs = answer(Question(path, None, (), SEQUENCES)).logits[0]
    assert np.abs(logits_of(model) - theirs).max() < 1e-3


@sorts
def test_an_adapter_on_every_linear_layer_is_the_trained_model_in_llama_cpp(
    folder: Path, sort: Sort
) -> None:
    path, _ = written(folder, sort)
    header = read_header(path)
    policy = filled(Policy(load_trunk(path)), *ROLES)
    expected = {  # all matrices of the blocks, fused ones as one
        name.removesuffix(".weight")
        for name, info in header.tensors.items()
        if name.startswith("blk.") and len(info.shape) == 2
    }
    stems = linear_stems(header)
    assert set(stems.values()) == expected
    assert set(policy.layers) == set(stems)
    adapter = folder / f"{sort.name}-adapter.gguf"
    write_adapter(adapter, header, policy.joined(ROLES), {})
    theirs = answer(Question(path, adapter, (), SEQUENCES, greedy_tokens=64))
    plain = torch_logits(policy, SEQUENCES)
    for own, other, without in zip(
        torch_logits(policy, SEQUENCES, *ROLES), theirs.logits, plain, strict=True
    ):
        assert np.abs(own - other).max() < limit(sort)
        assert np.abs(own - without).max() > 0.1  # the adapter does something
    with policy.merged(*ROLES):
        completed = sample(
            policy, SEQUENCES, max_new_tokens=64, end_ids=(), generator=generator_for(1),
            temperature=0.0,
        )  # fmt: skip
    assert tuple(each.ids for each in completed) == theirs.greedy
    again = read_adapter(adapter, header)
    for module, (a, b) in policy.joined(ROLES).items():
        assert torch.equal(again[module][0], a)
        assert torch.equal(again[module][1], b)


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
@sorts
def test_a_merged_model_scores_as_the_trained_one_in_llama_cpp(
    folder: Path, sort: Sort, quantization: Quantization
) -> None:
    path, _ = written(folder, sort)
    policy = filled(Policy(load_trunk(path)), *ROLES)
    merged = folder / f"{sort.name}-{quantization}.gguf"
    adapter = folder / f"{sort.name}-to-merge.gguf"
    write_adapter(adapter, read_header(path), policy.joined(ROLES), {})
    write_merged(merged, path, adapter, quantization, {})
    theirs = answer(Question(merged, None, (), SEQUENCES)).logits
    found = compare(torch_logits(policy, SEQUENCES, *ROLES), theirs)
    assert found.kl < {"F16": 1e-4, "Q8_0": 5e-3}[quantization]
    assert compare(torch_logits(policy, SEQUENCES), theirs).kl > 0.05


@pytest.mark.parametrize("name", ["gemma3", "phi3", "gpt2"])
def test_a_row_is_sampled_alike_alone_and_beside_a_longer_one(folder: Path, name: str) -> None:
    path, _ = written(folder, SORTS[name])
    policy = Policy(load_trunk(path))
    greedy = partial(
        sample, policy, max_new_tokens=20, end_ids=(), generator=generator_for(1), temperature=0.0
    )
    prompts = [SEQUENCES[0], SEQUENCES[1][:7]]
    together = greedy(prompts)
    assert [each.ids for each in together] == [greedy([prompt])[0].ids for prompt in prompts]


def test_every_architecture_of_the_table_is_tested() -> None:
    assert {sort.architecture for sort in SORTS.values()} == set(ARCHITECTURES)


def test_a_file_without_its_position_table_is_a_sentence(folder: Path) -> None:
    sort = SORTS["gpt2"]
    model = sort.make()
    del model.transformer.wpe
    path = write_gguf(folder / "no-positions.gguf", sort, model)
    with pytest.raises(InputError, match=r"has no position_embd\.weight"):
        load_trunk(path)
