"""The reward model through llama.cpp gives the scores that the trainer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from desktop_app.inference.engine import (
    AdapterRef,
    EngineFailure,
    Event,
    ModelReady,
    ModelRef,
    PromptProgress,
    Score,
    Scored,
    Stop,
)
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.contract.chat_template import Message
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import file_sha256
from finetune.contract.recipe import LoraRecipe
from finetune.data import Encoder
from finetune.export import reward_metadata, write_adapter
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from finetune.reward import ADAPTER, RewardHeads, conservative, last_states, score
from finetune.stage import generator_for
from finetune.vocabulary import GgufVocabulary
from tests.desktop_app.inference.asking import ask
from tests.tiny_models import write_adapter as write_plain_adapter
from tests.tiny_models import write_model

SAID = (
    Message("user", "안녕? How are you?"),
    Message("assistant", "Fine."),
    Message("user", "Tell me more."),
)
COMPLETIONS = ("Yes.", "No, I would rather not say more about it.", "네, 좋아요! 😀", "")
UNCERTAINTY = 0.7


class Trained:
    """A random reward model on a tiny trunk, and what the trainer makes of the completions."""

    def __init__(self, folder: Path, quantization: str) -> None:
        # llama.cpp rounds activations too where the weights are quantised.
        self.tolerance = 1e-3 if quantization == "F32" else 2e-2
        self.base = write_model(folder / "base.gguf", quantization=quantization, ends=False)
        header = read_header(self.base)
        policy = Policy(load_trunk(self.base))
        generator = generator_for(5, "test")
        policy.add_adapter(ADAPTER, LoraRecipe(rank=4, alpha=8.0), generator)
        with torch.no_grad():
            for layer in policy.layers.values():
                layer.b[ADAPTER].normal_(std=0.2, generator=generator)
        heads = RewardHeads(policy.width, 3, generator)
        with torch.no_grad():
            heads.bias.normal_(generator=generator)
        file = folder / "reward.gguf"
        metadata = reward_metadata(heads.weight, heads.bias, UNCERTAINTY)
        write_adapter(file, header, policy.joined((ADAPTER,)), metadata)
        self.adapter = AdapterRef(str(file), file_sha256(file))
        encoder = Encoder(GgufVocabulary(self.base), header.chat_template, 1024)
        examples = [encoder.example(SAID, text) for text in COMPLETIONS]
        rows = [example.ids for example in examples if example is not None]
        assert len(rows) == len(COMPLETIONS)
        self.by_head = score(policy, heads, rows, 512)
        self.scores = conservative(self.by_head, UNCERTAINTY)
        self.hidden = last_states(policy, rows, 512)

    def engine(self) -> LlamaEngine:
        engine = LlamaEngine(threads=1)
        events = list(engine.load(ModelRef("base", str(self.base), file_sha256(self.base))))
        assert isinstance(events[-1], ModelReady)
        return engine


@pytest.fixture(scope="module", params=["F32", "Q8_0"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("scoring"), request.param)


def only(events: list[Event]) -> Scored:
    *progress, scored = events
    assert isinstance(scored, Scored), scored
    told = [e for e in progress if isinstance(e, PromptProgress)]
    assert len(told) == len(progress) > 0
    assert [e.done for e in told] == sorted({e.done for e in told}), "each is further"
    assert {e.request_id for e in told} == {scored.request_id}
    assert {e.total for e in told} == {scored.computed_tokens}
    return scored


def test_scores_equal_the_trainers(trained: Trained) -> None:
    engine = trained.engine()
    scored = only(list(engine.score(Score("r", SAID, COMPLETIONS, trained.adapter))))
    close = pytest.approx
    assert scored.scores == close(trained.scores.tolist(), abs=trained.tolerance)
    for found, expected in zip(scored.head_scores, trained.by_head.tolist(), strict=True):
        assert found == close(expected, abs=trained.tolerance)
    engine.close()


def test_hidden_states_are_those_of_the_last_norm(trained: Trained) -> None:
    engine = trained.engine()
    request = Score("r", SAID, COMPLETIONS, trained.adapter, wants_hidden=True)
    found = torch.tensor(only(list(engine.score(request))).hidden)
    assert (found - trained.hidden).abs().max() < 5 * trained.tolerance
    plain = torch.tensor(
        only(list(engine.score(Score("r", SAID, COMPLETIONS, None, wants_hidden=True)))).hidden
    )
    assert (plain - trained.hidden).abs().max() > 0.1, "the adapter makes the difference"
    engine.close()


def test_a_prompt_is_read_once_for_all_completions_and_chatting_goes_on_unchanged(
    trained: Trained,
) -> None:
    engine = trained.engine()
    before = ask(engine, "Hello", "there", "again")
    one = only(list(engine.score(Score("r", SAID, COMPLETIONS[:1], trained.adapter))))
    many = only(list(engine.score(Score("r", SAID, COMPLETIONS * 3, trained.adapter))))
    prompt = one.computed_tokens - 6
    assert many.computed_tokens < 12 * one.computed_tokens - 8 * prompt
    assert many.scores[:4] == pytest.approx(trained.scores.tolist(), abs=trained.tolerance)
    after = ask(engine, "Hello", "there", "again")
    assert after.text == before.text
    assert after.done.reused_tokens > 0, "the conversation was set aside, not thrown away"
    engine.close()


def test_what_cannot_be_scored_is_said_in_one_sentence(trained: Trained, tmp_path: Path) -> None:
    engine = trained.engine()
    file = write_plain_adapter(tmp_path / "plain.gguf")
    plain = AdapterRef(str(file), file_sha256(file))
    (failure,) = engine.score(Score("r", SAID, ("a",), plain))
    assert isinstance(failure, EngineFailure)
    assert "holds no reward model" in failure.message
    assert failure.request_id == "r"
    (failure,) = engine.score(Score("r", SAID, ("long " * 9000,), trained.adapter))
    assert isinstance(failure, EngineFailure)
    assert "tokens long" in failure.message
    engine.stop(Stop("r"))
    (failure,) = engine.score(Score("r", SAID, ("a",), trained.adapter))
    assert isinstance(failure, EngineFailure)
    assert failure.reason == "cancelled"
    only(list(engine.score(Score("s", SAID, ("a",), trained.adapter))))
    engine.close()


def test_without_a_model_there_is_no_score() -> None:
    (failure,) = LlamaEngine(threads=1).score(Score("r", SAID, ("a",), None))
    assert isinstance(failure, EngineFailure)
    assert failure.message == "No model is loaded."
