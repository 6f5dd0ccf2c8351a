"""A run from feedback to a finished model version: stages in order, each resumable.

    prepare   read records, model and recipe; say what there is too little of
    sft       liked and corrected completions          -> sft/done
    reward    what this person prefers, as a score     -> reward/done
    ppo       practise against the score               -> ppo/done
    evaluate  the gate: PPO's result, else SFT's, else none
    export    adapter.gguf, model.gguf, reward.gguf, manifest.json, whole or not at all

A finished stage is a checkpoint folder; a resumed run loads it and goes on, and ends with the
same weights as an uninterrupted one. What is raised here is turned into the one final event by
``finetune.runner``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from finetune import devices, distributed, ppo, reward, sft
from finetune.architectures import architecture_of
from finetune.checkpoint import (
    Checkpoint,
    load_checkpoint,
    prefixed,
    remove_steps,
    save_checkpoint,
    without_prefix,
)
from finetune.contract.errors import InputError
from finetune.contract.events import (
    MemoryPlan,
    Note,
    RunDone,
    RunStarted,
    Stage,
    StageDone,
    StageStarted,
)
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import file_sha256
from finetune.contract.recipe import Recipe
from finetune.contract.records import read_records
from finetune.data import Dataset, Encoder, Prompt, build_dataset
from finetune.enough import left_out, require_something, useless_to_practise
from finetune.evaluate import Report, evaluate, write_for
from finetune.generate import Completed, sample
from finetune.gguf_weights import linear_stems, load_trunk
from finetune.machine import same_machine
from finetune.out_of_memory import smaller_if_needed
from finetune.policy import Policy
from finetune.quantization import note_on
from finetune.reward import RewardHeads
from finetune.reward_model import RewardModel
from finetune.run_folder import RunSpec, read_recipe, read_spec
from finetune.stage import Emit, StageRun, Stopped, generator_for
from finetune.version import PARITY_METRICS, VersionFacts, write_version
from finetune.vocabulary import GgufVocabulary

log = logging.getLogger(__name__)

REFERENCE_SAMPLES = 64
"""Completions of the reference on which scores are standardised."""
PARITY_SEQUENCES = 4

Result = TypeVar("Result")


class GateFailed(Exception):
    """There is a result, and it is not fit to be offered; the text says why."""


@dataclass(frozen=True)
class Choice:
    """What the gate let through: which adapters, and how it measured."""

    roles: tuple[str, ...]
    report: Report


def run(run_dir: Path, emit: Emit, should_stop: Callable[[], bool], *, resumed: bool) -> RunDone:
    """Bring the run in ``run_dir`` to its end; the final event is returned, not emitted."""
    work = _Run(run_dir, emit, distributed.agreed(should_stop))
    emit(
        RunStarted(
            work.run_id,
            ("prepare", *work.recipe.stages, "evaluate", "export"),
            work.device.name,
            work.device.dtype_name,
            resumed,
        )
    )
    plan = work.plan
    emit(
        MemoryPlan(
            plan.held, plan.weights, plan.adapters, plan.activations, plan.working, plan.available
        )
    )
    work.prepare()
    if work.learns("sft"):
        work.sft()
    if work.learns("reward"):
        work.reward()
    if work.learns("ppo"):
        work.ppo()
    choice = work.evaluate()
    return work.export(choice)


class _Run:
    """The state of a run; one method a stage."""

    def __init__(self, run_dir: Path, emit: Emit, should_stop: Callable[[], bool]) -> None:
        self.folder = run_dir
        self.run_id = run_dir.name
        self.emit = emit
        self.should_stop = should_stop
        self.spec: RunSpec = read_spec(run_dir)
        self.recipe: Recipe = read_recipe(run_dir)
        self.base = read_header(self.spec.base)
        architecture_of(self.base)
        parameters = devices.parameter_count(self.base)
        device = devices.choose_device(parameters)
        with distributed.leader_first():
            self.device, self.products = same_machine(run_dir, device, parameters)
        torch.set_num_threads(self.device.threads)
        self.plan = devices.memory_plan(self.device, self.base, self.recipe, self.spec.weights)
        self.tokens, self.rows = self.plan.tokens, self.plan.rows
        self.stages: list[Stage] = []
        self.metrics: dict[str, float] = {}
        self._skipped: set[str] = set()
        self._since = time.monotonic()

    # --- prepare -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read everything and say what it is enough for."""
        self._started("prepare")
        sha256 = file_sha256(self.spec.base)
        if self.spec.base_sha256 and sha256 != self.spec.base_sha256:
            raise InputError(
                f"The model file {self.spec.base.name} has changed since this run was prepared."
            )
        self.base_sha256, self._base_changed = sha256, self.spec.base.stat().st_mtime_ns
        counts = {
            "demonstrations": float(self.data.demonstration_count),
            "preferences": float(self.data.preference_count),
            "held_out_demonstrations": float(len(self.data.held_out.demonstrations)),
            "held_out_preferences": float(self.data.held_out.preference_count),
            "prompts": float(len(self.data.train.prompts)),
        }
        changed = [f"{stem}.weight" for stem in linear_stems(self.base).values()]
        on_merging = note_on(self.base, self.recipe.quantization, changed)
        for note in (*self.data.notes, *filter(None, [on_merging])):
            self.emit(Note(note))
        lacks = left_out(self.data, self.recipe)
        for stage, lack in lacks.items():
            self._skip(stage, lack.why)
        require_something(self.data, self.recipe, lacks)
        if not self.learns("reward"):
            self._skipped.add("ppo")
        self._done("prepare", counts)

    @cached_property
    def vocabulary(self) -> GgufVocabulary:
        return GgufVocabulary(self.spec.base, self.encoder_template)

    @cached_property
    def encoder_template(self) -> str | None:
        return self.base.chat_template

    @cached_property
    def encoder(self) -> Encoder:
        context = int(self.base.hyperparameter("context_length", self.recipe.max_tokens))
        return Encoder(self.vocabulary, self.encoder_template, min(self.recipe.max_tokens, context))

    @cached_property
    def data(self) -> Dataset:
        records, bad = read_records(sorted((self.folder / "feedback").glob("*.jsonl")))
        for line in bad[:20]:
            self.emit(Note(f"A piece of feedback could not be read: {line}."))
        room = max(self.recipe.ppo.max_new_tokens, self.recipe.evaluation.max_new_tokens)
        return build_dataset(
            records,
            self.encoder,
            held_out_fraction=self.recipe.evaluation.held_out_fraction,
            rating_weight=self.recipe.reward.rating_weight,
            completion_room=room,
        )

    @cached_property
    def policy(self) -> Policy:
        log.info("%s", self.plan.in_words())
        trunk = load_trunk(
            self.spec.base, self.device.dtype, self.device.torch_device,
            held=self.plan.held, weights=self.spec.weights,
        )  # fmt: skip
        return Policy(
            trunk, copies=self.plan.copies, forgets=self.plan.forgets,
            blank_ids=self.vocabulary.blank_ids,
        )  # fmt: skip

    def learns(self, stage: str) -> bool:
        """Whether the recipe wants this stage and there is enough to learn from."""
        return stage in self.recipe.stages and stage not in self._skipped

    def _skip(self, stage: str, why: str) -> None:
        self._skipped.add(stage)
        self.emit(Note(why))

    # --- the three training stages -----------------------------------------------------------

    def sft(self) -> None:
        """Learn liked and corrected completions, with some of the base's own mixed in."""
        finished = load_checkpoint(self.folder / "sft" / "done")
        if finished is None:
            examples = [*self.data.train.demonstrations]
            count = round(self.recipe.sft.replay_fraction * len(examples))
            examples += [c.example for c in self._own_completions("sft", "replay", count)]
            with self.policy.narrowed(self.products), self._stage_run("sft") as stage_run:
                result = sft.train_sft(
                    self.policy,
                    examples,
                    self.data.held_out.demonstrations,
                    self.recipe.sft,
                    self.recipe.seed,
                    stage_run,
                    self.data.held_out.preferences,
                )
            finished = Checkpoint(
                prefixed("adapter", self.policy.adapter_state(sft.ADAPTER)), result.metrics()
            )
            self._keep("sft", finished)
        else:
            self._started("sft")
            self._restore_adapter(sft.ADAPTER, finished)
        self.policy.fold(sft.ADAPTER)
        self._done("sft", finished.state)

    def reward(self) -> None:
        """Learn the score; settle its scale on what the reference writes."""
        finished = load_checkpoint(self.folder / "reward" / "done")
        if finished is None:
            groups, held_out = self.data.train.preferences, self.data.held_out.preferences
            with self.policy.narrowed(self.products), self._stage_run("reward") as stage_run:
                heads = reward.train_reward(
                    self.policy, groups, held_out, self.recipe.reward, self.recipe.seed, stage_run
                )
            self.scores = self._reward_model(heads)
            samples = self._own_completions(
                "reward", "reference samples", REFERENCE_SAMPLES, *ppo.REFERENCE
            )
            usable = [c for c in samples if c.ended and not c.is_empty]
            chosen = usable if len(usable) >= 8 else samples
            metrics = self.scores.settle(chosen, groups, held_out, self.recipe.reward)
            metrics["ended"] = len(usable) / len(samples)
            finished = self.scores.checkpoint(metrics)
            self._keep("reward", finished)
        else:
            self._started("reward")
            self._restore_adapter(reward.ADAPTER, finished)
            generator = generator_for(self.recipe.seed, "reward heads")
            heads = RewardHeads(self.policy.width, self.recipe.reward.heads, generator)
            self.scores = self._reward_model(heads.to(self.device.torch_device))
            self.scores.restore(finished)
        metrics = finished.state["metrics"]
        self._done("reward", metrics)
        useless = useless_to_practise(metrics, self.recipe)
        if useless is not None:
            self._skip("ppo", useless)

    def ppo(self) -> None:
        """Practise against the score, within the KL budget."""
        finished = load_checkpoint(self.folder / "ppo" / "done")
        if finished is None:
            judge = self.scores.trusted_judge
            with self.policy.narrowed(self.products), self._stage_run("ppo") as stage_run:
                metrics = ppo.train_ppo(
                    self.policy,
                    [prompt.ids for prompt in self.data.train.prompts],
                    self.scores.score,
                    self.data.train.demonstrations if self.learns("sft") else (),
                    self.recipe.ppo,
                    self.vocabulary.end_ids,
                    self.recipe.seed,
                    stage_run,
                    None if judge is None else self.scores.judged,
                )
            finished = Checkpoint(
                prefixed("adapter", self.policy.adapter_state(ppo.ADAPTER)), metrics
            )
            self._keep("ppo", finished)
        else:
            self._started("ppo")
            self._restore_adapter(ppo.ADAPTER, finished)
        self._done("ppo", finished.state)

    # --- evaluate and export -----------------------------------------------------------------

    def evaluate(self) -> Choice:
        """PPO's result if it passes the gate, else SFT's.

        Raises:
            GateFailed: neither does.
        """
        self._started("evaluate")
        prompts = self._evaluation_prompts()
        recipe, seed = self.recipe.evaluation, self.recipe.seed
        before = self._in_memory(
            "evaluate",
            lambda _, rows: write_for(
                self.policy, prompts, recipe, self.vocabulary.end_ids, seed, rows_at_once=rows
            ),
        )
        candidates: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        if self.learns("ppo"):
            candidates.append(("PPO", ppo.POLICY, ppo.REFERENCE))
        if self.learns("sft"):
            candidates.append(("SFT", (sft.ADAPTER,), ()))
        refused: list[str] = []
        for name, roles, reference in candidates:
            measured = partial(
                evaluate,
                self.policy,
                roles,
                reference,
                prompts,
                before,
                self.data.held_out.demonstrations,
                # A reward model of no use to practise has nothing to say about the result.
                self.scores if self.learns("ppo") else None,
                recipe,
                self.vocabulary,
                seed,
                missing_end_score=self.recipe.ppo.missing_end_score,
                held_out_prompts=len(prompts) if self.data.held_out.prompts else 0,
            )
            report = self._in_memory("evaluate", measured)
            failures = list(report.failures)
            if name == "PPO" and report.metrics["win_rate"] < 0.5:
                failures.append("it does not please the reward model more than the base does")
            if not failures:
                for shown in report.samples:
                    self.emit(shown)
                self._done("evaluate", report.metrics)
                return Choice(roles, report)
            refused.append(f"{name}: {', '.join(failures)}")
            self.emit(Note(f"The result of {name} is not offered: {', '.join(failures)}."))
            log.info("%s refused: %s", name, report.metrics)
        raise GateFailed(
            "The result is not better than the model it came from, so it is not offered "
            f"({'; '.join(refused) or 'no stage could learn'})."
        )

    def export(self, choice: Choice) -> RunDone:
        """Write the version whole, after llama.cpp has confirmed it."""
        self._started("export")
        if self.spec.base.stat().st_mtime_ns != self._base_changed:
            raise InputError(
                f"The model file {self.spec.base.name} was changed during the training, so its "
                "result fits no model any more."
            )
        facts = VersionFacts(
            run_id=self.run_id,
            name=self.spec.name,
            parent=self.spec.parent,
            base=self.spec.base,
            base_sha256=self.base_sha256,
            template=self.encoder.template,
            recipe=self.recipe,
            metrics={**self.metrics, **choice.report.metrics},
        )
        final = self.folder / "export"
        written = self._greedy(self._evaluation_prompts()[:PARITY_SEQUENCES], choice.roles)
        if not distributed.leads():
            return RunDone(str(final), tuple(self.stages))
        manifest = write_version(
            final,
            facts,
            self.policy,
            choice.roles,
            self.scores.heads if self.learns("reward") else None,
            self.vocabulary,
            written,
        )
        self._done("export", {name: manifest.metrics[name] for name in PARITY_METRICS})
        return RunDone(str(final), tuple(self.stages), manifest.metrics)

    # --- small things ------------------------------------------------------------------------

    def _evaluation_prompts(self) -> list[Prompt]:
        """Held-out prompts, or practised ones where nothing could be held out."""
        prompts = self.data.held_out.prompts or self.data.train.prompts
        order = torch.randperm(
            len(prompts), generator=generator_for(self.recipe.seed, "evaluation prompts")
        )
        return [prompts[i] for i in order[: self.recipe.evaluation.prompts].tolist()]

    def _own_completions(
        self, stage: Stage, purpose: str, count: int, *roles: str
    ) -> list[Completed]:
        """``count`` completions of training prompts by the model with these adapters."""
        prompts = self.data.train.prompts
        if not count or not prompts:
            return []

        def sampled(_: int, rows: int) -> list[Completed]:
            generator = generator_for(self.recipe.seed, purpose)
            order = torch.randperm(len(prompts), generator=generator).tolist()
            with self.policy.merged(*roles):
                return sample(
                    self.policy,
                    [prompts[order[i % len(prompts)]].ids for i in range(count)],
                    max_new_tokens=self.recipe.ppo.max_new_tokens,
                    end_ids=self.vocabulary.end_ids,
                    generator=generator,
                    rows_at_once=rows,
                )

        return self._in_memory(stage, sampled)

    def _greedy(self, prompts: Sequence[Prompt], roles: Sequence[str]) -> list[tuple[int, ...]]:
        """Prompts with the 64 likeliest tokens behind them."""

        def sampled(_: int, rows: int) -> list[Completed]:
            with self.policy.merged(*roles):
                return sample(
                    self.policy,
                    [prompt.ids for prompt in prompts],
                    max_new_tokens=64,
                    end_ids=self.vocabulary.end_ids,
                    generator=generator_for(self.recipe.seed, "parity"),
                    temperature=0.0,
                    rows_at_once=rows,
                )

        return [(*c.prompt, *c.ids) for c in self._in_memory("export", sampled)]

    def _in_memory(self, stage: Stage, work: Callable[[int, int], Result]) -> Result:
        """``work(tokens, rows at once)``, again with less of both where memory runs out."""
        with self._stage_run(stage) as stage_run:
            done = smaller_if_needed(stage_run, lambda tokens: work(tokens, stage_run.rows_at_once))
        self.rows = stage_run.rows_at_once
        return done

    @contextmanager
    def _stage_run(self, stage: Stage) -> Iterator[StageRun]:
        """A stage's line to the outside; later work begins with batches that fitted. How many
        rows are sampled at once is learned from sampling only: a step of SFT says nothing of it.
        """
        stage_run = StageRun(
            stage,
            self.folder / stage,
            self.emit,
            self.should_stop,
            self.recipe.checkpoint_every,
            self.tokens,
            self.rows,
        )
        yield stage_run
        self.tokens = stage_run.micro_batch_tokens
        if stage == "ppo":
            self.rows = stage_run.rows_at_once

    def _reward_model(self, heads: RewardHeads) -> RewardModel:
        return RewardModel(self.policy, heads, self.recipe.ppo.score_uncertainty, self.tokens)

    def _restore_adapter(self, name: str, finished: Checkpoint) -> None:
        recipe = self.recipe
        shapes = {"sft": recipe.sft.lora, "reward": recipe.reward.lora, "ppo": recipe.ppo.lora}
        generator = generator_for(recipe.seed, f"{name} adapter")
        self.policy.add_adapter(name, shapes[name], generator)
        self.policy.load_adapter_state(name, without_prefix("adapter", finished.tensors))

    def _keep(self, stage: Stage, finished: Checkpoint) -> None:
        save_checkpoint(self.folder / stage / "done", finished.tensors, finished.state)
        remove_steps(self.folder / stage)

    def _started(self, stage: Stage) -> None:
        if self.should_stop():
            raise Stopped
        self.emit(StageStarted(stage, 0))

    def _done(self, stage: Stage, metrics: Any) -> None:
        self.stages.append(stage)
        finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
        if stage in ("sft", "reward", "ppo"):
            self.metrics |= {f"{stage}_{name}": value for name, value in finite.items()}
        now = time.monotonic()
        self.emit(StageDone(stage, {**finite, "seconds": now - self._since}))
        self._since = now
