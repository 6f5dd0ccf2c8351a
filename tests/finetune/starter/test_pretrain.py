"""Packing keeps documents apart, training learns, and a stopped one goes on the same way."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from finetune.starter.model import ModelShape, StarterModel
from finetune.starter.optimizer import MuonWithAdam, orthogonalise
from finetune.starter.pretrain import (
    IGNORED,
    HeldOut,
    Progress,
    Reading,
    Rows,
    StagePlan,
    Stop,
    allowed_attention,
    held_out_loss,
    load_checkpoint,
    mended_steps,
    pack,
    passes_of_step,
    rate_share,
    row_numbers,
    save_checkpoint,
    summed_loss,
    train_stage,
)
from finetune.starter.recipe import StarterRecipe
from finetune.starter.tokenizer import EncodedText, encode_document, token_byte_lengths

RECIPE = StarterRecipe(
    tokens_per_step=64,
    rows_per_pass=1,
    row_length=32,
    long_row_length=64,
    long_share=0.25,
    warmup_steps=2,
    evaluate_every=4,
    evaluate_tokens=64,
    checkpoint_every=3,
)


def documents(count: int, vocabulary: int) -> list[EncodedText]:
    choose = random.Random(5)
    texts = []
    for _ in range(count):
        ids = [choose.randrange(3, vocabulary) for _ in range(choose.randrange(3, 40))]
        texts.append(EncodedText(ids, [choose.random() < 0.7 for _ in ids]))
    return texts


def counted_pairs(texts: list[EncodedText]) -> list[int]:
    return sorted(
        t for x in texts for t, counts in zip(x.ids[1:], x.mask[1:], strict=True) if counts
    )


def test_whole_documents_are_packed_with_exactly_their_counted_tokens() -> None:
    texts = documents(50, 100)
    short = [t for t in texts if len(t.ids) <= 32]
    rows = pack(texts, 32, seed=1, cut_long=False)
    assert sorted(rows.targets[rows.targets != IGNORED].tolist()) == counted_pairs(short)
    for index, text in enumerate(texts):
        if len(text.ids) <= 32:
            assert rows.ids[rows.segments == index].tolist() == text.ids


def test_cut_rows_are_full_and_lose_nothing_but_the_seams() -> None:
    texts = documents(50, 100)
    rows = pack(texts, 32, seed=1, cut_long=True)
    assert (rows.segments[:-1] >= 0).all()
    assert int((rows.segments >= 0).sum()) == sum(len(t.ids) for t in texts)


def test_packed_loss_is_the_loss_of_documents_one_by_one(model: StarterModel) -> None:
    texts = [t for t in documents(20, 100) if len(t.ids) <= 32]
    rows = pack(texts, 32, seed=2, cut_long=False)
    packed = summed_loss(
        model, rows.ids.long(), allowed_attention(rows.segments), rows.targets.long()
    )
    alone = 0.0
    for text in texts:
        ids = torch.tensor([text.ids])
        targets = [t if m else IGNORED for t, m in zip(text.ids, text.mask, strict=True)]
        shifted = torch.tensor([[*targets[1:], IGNORED]])
        everything = torch.zeros_like(ids)
        alone += float(summed_loss(model, ids, allowed_attention(everything), shifted).detach())
    assert float(packed.detach()) == pytest.approx(alone, rel=1e-5)


def test_attention_stays_in_the_document_and_in_the_past() -> None:
    allowed = allowed_attention(torch.tensor([[4, 4, 9]]))
    assert allowed.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


def test_every_row_is_read_once_before_any_is_read_again() -> None:
    read = [n for first in range(0, 18, 3) for n in row_numbers(9, first, 3, seed=1)]
    assert sorted(read[:9]) == list(range(9))
    assert sorted(read[9:]) == list(range(9))
    assert read[:9] != read[9:]


def numbered_rows(count: int, length: int) -> Rows:
    """Rows that say by every id which one they are."""
    ids = torch.arange(count, dtype=torch.int32)[:, None].expand(count, length)
    return Rows(ids, torch.zeros_like(ids), ids)


def test_a_step_reads_its_shares_in_passes_and_goes_on_where_another_stage_stopped() -> None:
    talk, prose, long = numbered_rows(50, 32), numbered_rows(40, 16), numbered_rows(20, 32)
    readings = Reading(talk, share=0.5), Reading(prose, long, share=0.5, rows_before=6)
    plan = StagePlan("chat", 8, readings, 1.0)
    recipe = replace(RECIPE, tokens_per_step=128, row_length=32, rows_per_pass=1)
    seed = recipe.seed
    for step in range(8):
        passes = passes_of_step(recipe, plan, step)
        assert sum(rows.ids[numbers].numel() for rows, numbers in passes) == 128
        assert all(rows.ids[numbers].numel() == 32 for rows, numbers in passes)
        assert [n for _, numbers in passes[:2] for n in numbers] == row_numbers(
            50, 2 * step, 2, seed
        )
        assert {id(rows) for rows, _ in passes[2:]} == {id(long if step >= 6 else prose)}
        read = [n for _, numbers in passes[2:] for n in numbers]
        expected = (20, 2 * step, 2) if step >= 6 else (40, 6 + 4 * step, 4)
        assert read == row_numbers(*expected, seed)


def test_the_rate_goes_up_stays_and_ends_near_zero() -> None:
    shares = [rate_share(step, 10, 2, 0.5) for step in range(10)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("decay", "step", "seconds", "per_step", "expected"),
    [
        (0.5, 20, 20.0, 1.0, 100),  # as fast as was thought
        (0.5, 20, 40.0, 2.0, 50),  # half as fast: (100 - 40) / 2 more
        (0.5, 20, 99.0, 5.0, 40),  # time is nearly over: the rate falls from here to the end
        (0.5, 60, 90.0, 1.5, 100),  # the rate already falls: nothing is changed
        (0.0, 60, 99.0, 5.0, 80),  # time is nearly over: the last quarter is in long rows
        (0.0, 60, 60.0, 1.0, 100),
        (0.0, 75, 90.0, 1.5, 100),  # the long rows have begun: nothing is changed
    ],
)
def test_steps_are_mended_by_the_speed_only_while_nothing_depends_on_them(
    decay: float, step: int, seconds: float, per_step: float, expected: int
) -> None:
    nothing = torch.zeros(1, 1)
    rows = Rows(nothing, nothing, nothing)
    plan = StagePlan("chat", 100, (Reading(rows),), 1.0, decay, end_seconds=100.0)
    now = Progress("chat", step, 0, seconds)
    assert mended_steps(plan, now, per_step, 0.25) == expected
    assert mended_steps(replace(plan, end_seconds=None), now, per_step, 0.25) == 100


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_at_the_start_every_block_is_the_identity(shape: ModelShape) -> None:
    model = StarterModel(shape, seed=1)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(ids), model.norm(model.embed_tokens(ids)))


@pytest.fixture
def stage(tokenizer: Tokenizer) -> tuple[StagePlan, HeldOut]:
    texts = [encode_document(tokenizer, f"Hello {n}! 안녕하세요 {n} 고마워요.") for n in range(40)]
    rows = pack(texts, 32, 1, True)
    held: dict[str, Rows] = {"all": pack(texts[:5], 32, 1, True)}
    lengths = torch.tensor(token_byte_lengths(tokenizer))
    reading = Reading(rows, pack(texts, 64, 1, True))
    return StagePlan("pretrain", 10, (reading,), 1.0), HeldOut(held, lengths)


def begin(shape: ModelShape) -> tuple[StarterModel, MuonWithAdam]:
    model = StarterModel(shape, RECIPE.seed)
    return model, MuonWithAdam(model, RECIPE.momentum, RECIPE.weight_decay)


def weights(model: StarterModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_training_lowers_the_held_out_loss_and_writes_a_log(
    tmp_path: Path, shape: ModelShape, stage: tuple[StagePlan, HeldOut]
) -> None:
    plan, held_out = stage
    model, optimizer = begin(shape)
    rows = held_out.rows["all"]
    before, _ = held_out_loss(model, rows, held_out.byte_lengths, 64)
    stop = Stop(tmp_path / "stop")
    end = train_stage(RECIPE, plan, model, optimizer, Progress(), held_out, tmp_path, stop)
    after, bits = held_out_loss(model, rows, held_out.byte_lengths, 64)
    assert after < before - 0.5
    assert end.step == 10
    assert end.tokens == 640
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == list(range(1, 11))
    assert entries[-1]["held_out/all"] == pytest.approx(after, abs=1e-3)
    assert entries[-1]["held_out/all/bits_per_byte"] == pytest.approx(bits, abs=1e-3)
    assert {"loss", "tokens_per_s", "rate"} <= entries[0].keys()


class StopAfter(Stop):
    """Wants to stop once it was asked ``times`` times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, shape: ModelShape, stage: tuple[StagePlan, HeldOut]
) -> None:
    plan, held_out = stage
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    model, optimizer = begin(shape)
    train_stage(RECIPE, plan, model, optimizer, Progress(), held_out, whole, Stop(whole / "stop"))
    first, first_optimizer = begin(shape)
    reached = train_stage(
        RECIPE, plan, first, first_optimizer, Progress(), held_out, part, StopAfter(5)
    )
    assert reached.step == 5
    second, second_optimizer = begin(shape)
    progress = load_checkpoint(part / "checkpoint.safetensors", second, second_optimizer)
    assert progress == reached
    train_stage(RECIPE, plan, second, second_optimizer, progress, held_out, part, StopAfter(99))
    for name, expected in weights(model).items():
        assert torch.equal(weights(second)[name], expected), name
    for name, expected in optimizer.state.items():
        assert torch.equal(second_optimizer.state[name], expected), name


def test_passes_of_any_size_take_the_same_step(
    tmp_path: Path, shape: ModelShape, stage: tuple[StagePlan, HeldOut]
) -> None:
    plan, held_out = replace(stage[0], steps=5), stage[1]  # none of the first steps is a long one
    results = []
    for rows_per_pass in (1, 2):
        model, optimizer = begin(shape)
        recipe = replace(RECIPE, rows_per_pass=rows_per_pass)
        train_stage(recipe, plan, model, optimizer, Progress(), held_out, tmp_path, StopAfter(1))
        results.append(weights(model))
    for name, expected in results[0].items():
        assert torch.allclose(results[1][name], expected, atol=2e-4), name


def test_a_stop_file_ends_the_training_with_a_checkpoint(
    tmp_path: Path, shape: ModelShape, stage: tuple[StagePlan, HeldOut]
) -> None:
    plan, held_out = stage
    model, optimizer = begin(shape)
    (tmp_path / "stop").touch()
    stop = Stop(tmp_path / "stop")
    end = train_stage(RECIPE, plan, model, optimizer, Progress(), held_out, tmp_path, stop)
    assert end.step == 0
    again, again_optimizer = begin(shape)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors", again, again_optimizer) == end


def test_a_checkpoint_appears_whole(tmp_path: Path, shape: ModelShape) -> None:
    model, optimizer = begin(shape)
    save_checkpoint(tmp_path / "c.safetensors", model, optimizer, Progress(step=3))
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert load_checkpoint(tmp_path / "c.safetensors", model).step == 3
