"""How long a run will take, stage by stage: its work is counted, the pace of the work measured.

What is measured is the trainer's own code on the first blocks of the very model: a training step,
a scoring pass, and sampling. Twice, with few blocks and with some more, so that what a block
costs and what all else costs are told apart and a deep model need not be loaded whole. What a
peak of operations a second promises says little: on small models it is not the sums that take
the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import torch

from finetune.contract.chat_template import TrainingExample
from finetune.contract.gguf_file import GgufHeader
from finetune.contract.recipe import Recipe
from finetune.data import Dataset
from finetune.devices import Device, parameter_count, product_type
from finetune.evaluate import COMPLETIONS
from finetune.generate import sample
from finetune.gguf_weights import load_trunk
from finetune.memory_plan import ROWS_AT_ONCE, MemoryPlan
from finetune.packing import pack
from finetune.policy import Policy
from finetune.stage import generator_for
from finetune.token_loss import backward, token_loss

SHALLOW, DEEP = 2, 6
"""Blocks of the two measurements; a model of no more than the second is measured whole."""
REPEATS: Final = 3
DECODED: Final = 8
"""Tokens that are sampled for a measurement."""
REFERENCE_SAMPLES: Final = 64
CARRIED: Final = 1.15
"""Rows of a batch being sampled that have ended go on for a while: so much more work."""
START_SECONDS: Final = 2.0
"""Reading the feedback, hashing the model."""
PARITY_SECONDS: Final = 4.0
"""llama.cpp's start in a process of its own, and three models in it."""
MERGED_PER_SECOND: Final = 6e7
"""Numbers that are merged and quantised in a second on one core, and hashed."""


@dataclass(frozen=True)
class Material:
    """What there is to learn from, in sequences and tokens."""

    demonstrations: int
    demonstration_tokens: int
    completions: int
    """Judged ones, for the reward model."""
    completion_tokens: int
    held_out_tokens: int
    prompts: int
    prompt_tokens: int
    written: int
    """Tokens of a completion."""

    @staticmethod
    def of(data: Dataset) -> Material:
        """Counted in a snapshot of feedback."""
        judged = [e for group in data.train.preferences for e in group.completions]
        learned = [*data.train.demonstrations]
        held_out = [*data.held_out.demonstrations]
        held_out += [e for group in data.held_out.preferences for e in group.completions]
        everything = [*judged, *learned] or [TrainingExample((0,), (True,))]
        written = sum(sum(e.completion_mask) for e in everything) / len(everything)
        return Material(
            len(learned),
            _tokens(learned),
            len(judged),
            _tokens(judged),
            _tokens(held_out),
            max(1, len(data.train.prompts)),
            sum(len(prompt.ids) for prompt in data.train.prompts),
            max(1, round(written)),
        )

    @property
    def prompt_length(self) -> float:
        return self.prompt_tokens / self.prompts


SIXTY_PIECES: Final = Material(20, 560, 48, 1580, 560, 24, 460, 12)
"""Thirty choices and thirty thumbs of a person who chats with the bundled model and likes it
short, counted (tests/benchmarks/one_click.py); four fifths of them are trained on."""


def _tokens(examples: Sequence[TrainingExample]) -> int:
    return sum(len(example.ids) for example in examples)


@dataclass(frozen=True)
class Pace:
    """Seconds: for a token, and for a step of sampling."""

    learn: float
    """Forward, back and the optimiser; half of the tokens are predicted, as in a chat."""
    score: float
    """Forward, half of the tokens predicted."""
    learn_states: float
    """As ``learn`` without the output layer: the reward model's way."""
    states: float
    """As ``score`` without the output layer."""
    step: float
    """Of sampling, whatever the number of rows."""
    row: float
    """More for each row."""

    def sampling(self, rows: int, most: int, written: float, at_once: int = ROWS_AT_ONCE) -> float:
        """Seconds to sample ``rows`` completions of ``written`` tokens on average.

        Lengths are taken for exponential: the longest of n is longer than their mean by the
        n-th harmonic number.
        """
        longest = min(most, written * (math.log(max(1, min(rows, at_once))) + 0.58))
        batches = math.ceil(rows / at_once)
        return batches * longest * self.step + CARRIED * rows * min(most, written) * self.row


# --- measuring -------------------------------------------------------------------------------


def measure(
    path: Path, header: GgufHeader, device: Device, plan: MemoryPlan, recipe: Recipe
) -> Pace:
    """The pace of this model on this device, with its threads, as it would be held."""
    before = torch.get_num_threads()
    torch.set_num_threads(device.threads)
    try:
        blocks = int(header.hyperparameter("block_count"))
        if blocks <= DEEP:
            return _measured(path, header, None, device, plan, recipe)
        few, more = (_measured(path, header, n, device, plan, recipe) for n in (SHALLOW, DEEP))
        each = {
            name: (getattr(more, name) - getattr(few, name)) / (DEEP - SHALLOW)
            for name in (field.name for field in fields(Pace))
        }
        whole = {n: getattr(more, n) + (blocks - DEEP) * max(0.0, each[n]) for n in each}
        return Pace(**whole)
    finally:
        torch.set_num_threads(before)


def _measured(
    path: Path,
    header: GgufHeader,
    blocks: int | None,
    device: Device,
    plan: MemoryPlan,
    recipe: Recipe,
) -> Pace:
    trunk = load_trunk(path, device.dtype, device.torch_device, held=plan.held, blocks=blocks)
    policy = Policy(trunk, copies=plan.copies, forgets=plan.forgets)
    name = "measured"
    policy.add_adapter(name, recipe.sft.lora, generator_for(1, name))
    optimizer = torch.optim.AdamW(policy.adapter_parameters(name))
    vocabulary = int(policy.config.vocab_size)
    luck = generator_for(1, "tokens")
    examples = [
        TrainingExample(
            tuple(torch.randint(vocabulary, (40,), generator=luck).tolist()),
            (False,) * 20 + (True,) * 20,
        )
        for _ in range(8)
    ]

    def learn() -> None:
        with policy.using(name):
            backward(policy, examples, plan.tokens)
        optimizer.step()
        optimizer.zero_grad()

    def score() -> None:
        with policy.using(name):
            token_loss(policy, examples, plan.tokens)

    whole = pack([(e.ids, ()) for e in examples], policy.device)

    def learn_states() -> None:
        with policy.using(name):
            policy.packed_hidden(whole)[whole.ends].sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def states() -> None:
        with policy.using(name):
            policy.packed_hidden(whole)

    def write(rows: int, steps: int) -> Callable[[], None]:
        prompts = [examples[i % 8].ids[:20] for i in range(rows)]

        def run() -> None:
            with policy.merged(name):
                sample(policy, prompts, max_new_tokens=steps, end_ids=(), generator=luck)

        return run

    few, many = 4, 32
    steps = [
        (_seconds(write(rows, DECODED)) - _seconds(write(rows, 1))) / (DECODED - 1)
        for rows in (few, many)
    ]
    row = max(0.0, (steps[1] - steps[0]) / (many - few))
    with policy.narrowed(product_type(device, parameter_count(header))):
        passes = (learn, score, learn_states, states)
        a, b, c, d = (_seconds(work) / _tokens(examples) for work in passes)
    return Pace(a, b, c, d, max(1e-6, steps[0] - few * row), row)


def _seconds(work: Callable[[], None]) -> float:
    """The least of some tries, after one to warm up."""
    work()
    best = math.inf
    for _ in range(REPEATS):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        best = min(best, time.perf_counter() - began)
    return best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- counting --------------------------------------------------------------------------------


def seconds_of_stages(
    header: GgufHeader, recipe: Recipe, pace: Pace, material: Material = SIXTY_PIECES
) -> dict[str, float]:
    """Seconds of each stage of a run whose reward model is good enough for PPO and whose KL
    budget lasts: at most so long."""
    ppo, evaluation = recipe.ppo, recipe.evaluation
    most, written = ppo.max_new_tokens, material.written
    row_tokens = material.prompt_length + min(most, written)
    found = {"prepare": START_SECONDS}
    if "sft" in recipe.stages:
        replay = round(recipe.sft.replay_fraction * material.demonstrations)
        learned = material.demonstration_tokens + replay * row_tokens
        found["sft"] = pace.sampling(replay, most, written) + recipe.sft.epochs * (
            learned * pace.learn + material.held_out_tokens * pace.score
        )
    if "reward" in recipe.stages:
        judged, unseen = material.completion_tokens, material.held_out_tokens
        read = recipe.reward.epochs * (judged + unseen) + judged + 3 * unseen
        found["reward"] = (
            recipe.reward.epochs * judged * pace.learn_states
            + (read + REFERENCE_SAMPLES * row_tokens) * pace.states
            + pace.sampling(REFERENCE_SAMPLES, most, written)
        )
    if "ppo" in recipe.stages and "reward" in recipe.stages:
        rows = ppo.prompts_per_step * ppo.copies
        # Scored by the policy again (where products are narrow), by the reference and by the
        # reward model; learned in each epoch with a little SFT.
        updates = ppo.epochs * ppo.minibatches if ppo.ptx_coef > 0 else 0
        mixed = updates * 4 * material.demonstration_tokens / max(1, material.demonstrations)
        each = (
            pace.sampling(rows, most, written)
            + rows * row_tokens * (2 * pace.score + pace.states + ppo.epochs * pace.learn)
            + mixed * pace.learn
        )
        found["ppo"] = ppo.steps * each
    prompts = max(1, min(evaluation.prompts, material.prompts // 4))
    rows = prompts * max(2, math.ceil(COMPLETIONS / prompts))
    tokens = rows * (material.prompt_length + min(evaluation.max_new_tokens, written))
    found["evaluate"] = 2 * pace.sampling(rows, evaluation.max_new_tokens, written) + tokens * (
        5 * pace.score + 2 * pace.states
    )
    found["export"] = PARITY_SECONDS + parameter_count(header) / MERGED_PER_SECOND
    return found


def in_words(seconds: Mapping[str, float]) -> str:
    """``sft 12 s, reward 20 s...``"""
    return ", ".join(f"{stage} {_rounded(value)}" for stage, value in seconds.items())


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
