"""Attune's trainer at a task of ``trainer.py``, in a process of its own.

    python trainer_ours.py plan TASK TASK     # fill in what our stage decides: order, rates, LoRA
    python trainer_ours.py run TASK RESULT [--gradient]

The stages are called as the pipeline calls them, with their defaults: device, number type,
threads and memory plan are those of a run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as ``python -m finetune`` does

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from trainer_task import Clock, Task, write_result  # noqa: E402

from finetune import devices, ppo, reward, sft  # noqa: E402
from finetune.contract.chat_template import TrainingExample  # noqa: E402
from finetune.contract.events import Event, StepDone  # noqa: E402
from finetune.contract.gguf_file import read_header  # noqa: E402
from finetune.contract.recipe import (  # noqa: E402
    LoraRecipe,
    PpoRecipe,
    Recipe,
    RewardRecipe,
    SftRecipe,
)
from finetune.data import RankedPrompt  # noqa: E402
from finetune.generate import sample  # noqa: E402
from finetune.gguf_weights import load_trunk  # noqa: E402
from finetune.policy import Policy  # noqa: E402
from finetune.rollouts import roll_out  # noqa: E402
from finetune.stage import StageRun, for_width, generator_for  # noqa: E402
from finetune.token_loss import backward  # noqa: E402

ADAPTERS = {"sft": sft.ADAPTER, "reward": reward.ADAPTER, "ppo": ppo.ADAPTER}


@dataclass
class Run:
    """A task with the trunk loaded, and the line on which the stage reports."""

    task: Task
    policy: Policy
    stage: StageRun
    products: torch.dtype | None
    clock: Clock
    metrics: list[dict[str, float]]

    @staticmethod
    def of(task: Task, folder: Path) -> Run:
        path = Path(task.gguf)
        header = read_header(path)
        parameters = devices.parameter_count(header)
        device = devices.choose_device(parameters)
        assert device.kind == task.device, f"this machine's device is {device.kind}"
        products = devices.product_type(device, parameters)
        torch.set_num_threads(device.threads)
        plan = devices.memory_plan(device, header, Recipe())
        trunk = load_trunk(path, device.dtype, device.torch_device, held=plan.held)
        clock, metrics = Clock(), list[dict[str, float]]()

        def emit(event: Event) -> None:
            if isinstance(event, StepDone):
                clock.step()
                metrics.append(dict(event.metrics))

        stage = StageRun(
            task.stage, folder, emit, lambda: False, Recipe().checkpoint_every,  # type: ignore[arg-type]
            micro_batch_tokens=plan.tokens,
        )  # fmt: skip
        return Run(task, Policy(trunk, copies=plan.copies), stage, products, clock, metrics)

    @property
    def lora(self) -> LoraRecipe:
        return LoraRecipe(self.task.rank, self.task.alpha)

    def examples(self) -> list[TrainingExample]:
        return [
            TrainingExample(tuple(row.ids), tuple(i >= row.start for i in range(len(row.ids))))
            for row in self.task.rows
        ]

    def ranked(self) -> list[RankedPrompt]:
        examples = self.examples()
        return [
            RankedPrompt(
                tuple(examples[i] for i in group),
                tuple((i, j, 1.0) for j in range(len(group)) for i in range(j)),
                (),
            )
            for group in self.task.groups
        ]

    def sft(self) -> None:
        recipe = replace(SftRecipe(), lora=self.lora, epochs=1, **self.task.recipe)
        with self.narrowed():
            sft.train_sft(self.policy, self.examples(), (), recipe, self.task.seed, self.stage)

    def reward(self) -> reward.RewardHeads:
        recipe = replace(RewardRecipe(), lora=self.lora, epochs=1, **self.task.recipe)
        with self.narrowed():
            return reward.train_reward(
                self.policy, self.ranked(), (), recipe, self.task.seed, self.stage
            )

    def ppo(self) -> None:
        task = self.task
        weight = load_file(task.start)["score"].to(self.policy.device)

        # The reward model's adapter costs what it costs, and leaves the score as TRL's.
        self.policy.add_adapter(reward.ADAPTER, RewardRecipe().lora, torch.Generator())

        def score(completed: Sequence[Any]) -> Tensor:
            rows = [(*c.prompt, *c.ids) for c in completed]
            states = reward.last_states(self.policy, rows, self.stage.micro_batch_tokens)
            return states.float() @ weight

        recipe = replace(PpoRecipe(), lora=self.lora, **task.recipe)
        prompts = [tuple(prompt) for prompt in task.prompts]
        generate = self.clock.timed("generate", sample)
        whole = self.clock.timed("generate and score", roll_out)
        with (
            patch("finetune.rollouts.sample", generate),
            patch("finetune.ppo.roll_out", whole),
            self.narrowed(),
        ):
            ppo.train_ppo(
                self.policy, prompts, score, (), recipe, {task.end_id}, task.seed, self.stage
            )

    def narrowed(self) -> Any:
        return self.policy.narrowed(self.products) if self.products is not None else nullcontext()

    def trained(self) -> dict[str, Tensor]:
        """The adapter as ``<module>.a`` and ``<module>.b``."""
        return self.policy.adapter_state(ADAPTERS[self.task.stage])


# --- plan ------------------------------------------------------------------------------------


def plan(task: Task, folder: Path) -> Task:
    """Run the stage without its gradients: which rows does it take when, at which rate, and
    where does its LoRA begin?"""
    run = Run.of(task, folder)
    taken: list[list[int]] = []
    if task.stage == "sft":
        index = {id(e): i for i, e in enumerate(run.examples())}
        # The stage gets examples of its own making; tokens tell which they are.
        by_tokens = {tuple(row.ids): i for i, row in enumerate(task.rows)}
        assert len(by_tokens) == len(index)

        def note_rows(policy: Policy, some: Sequence[TrainingExample], *_: Any) -> float:
            taken.append([by_tokens[example.ids] for example in some])
            return 0.0

        with patch.object(sft, "backward", note_rows):
            run.sft()
    elif task.stage == "reward":
        first = {tuple(task.rows[group[0]].ids): i for i, group in enumerate(task.groups)}
        assert len(first) == len(task.groups)

        def note_groups(
            policy: Policy, heads: Any, groups: Sequence[RankedPrompt], *_: Any
        ) -> float:
            taken.append([first[group.completions[0].ids] for group in groups])
            return 0.0

        with patch.object(reward, "_backward", note_groups):
            heads = run.reward()
    else:
        return _plan_ppo(run)
    start = {name: value.float().cpu() for name, value in run.trained().items()}
    if task.stage == "reward":
        start["score"] = heads.state_dict()["weight"].float().cpu().mean(0)
    # A point at which A and B both have gradients: at the first step B is zero, and A has none.
    luck = torch.Generator().manual_seed(task.seed)
    for name, value in list(start.items()):
        if name.endswith(".b"):
            start[f"{name}.probe"] = torch.randn(value.shape, generator=luck) * 0.02
    save_file({name: value.contiguous() for name, value in start.items()}, task.start)
    return replace(task, batches=taken, rates=[m["learning_rate"] for m in run.metrics])


def _plan_ppo(run: Run) -> Task:
    """A random score with mean 0 and deviation 1 on samples of the reference; the rates."""
    task, recipe = run.task, replace(PpoRecipe(), **run.task.recipe)
    luck = torch.Generator().manual_seed(task.seed)
    run.policy.add_adapter(ppo.ADAPTER, run.lora, generator_for(task.seed, "ppo adapter"))
    with run.policy.merged():
        completed = sample(
            run.policy, task.prompts, max_new_tokens=recipe.max_new_tokens,
            end_ids={task.end_id}, generator=luck,
        )  # fmt: skip
    rows = [(*c.prompt, *c.ids) for c in completed if c.ended]
    states = reward.last_states(run.policy, rows, run.stage.micro_batch_tokens).cpu()
    weight = torch.randn(run.policy.width, generator=luck)
    mean = states.mean(0)
    weight -= (weight @ mean) / (mean @ mean) * mean
    start = {name: value.cpu().contiguous() for name, value in run.trained().items()}
    save_file({**start, "score": weight / (states @ weight).std()}, task.start)
    rate = for_width(recipe.learning_rate, run.policy.width)
    rates = [rate * (1.0 - 0.9 * at / recipe.steps) for at in range(recipe.steps)]
    return replace(task, rates=rates)


# --- run -------------------------------------------------------------------------------------


def gradient(run: Run) -> dict[str, Tensor]:
    """Of the first step's loss, at the probe's weights."""
    task, adapter = run.task, ADAPTERS[run.task.stage]
    start = load_file(task.start)
    run.policy.load_adapter_state(
        adapter,
        {name: start.get(f"{name}.probe", value) for name, value in start.items()
         if not name.endswith((".probe", "score"))},
    )  # fmt: skip
    parameters = run.policy.adapter_parameters(adapter)
    for parameter in parameters:
        parameter.grad = None
    tokens = run.stage.micro_batch_tokens
    with run.narrowed():
        if task.stage == "sft":
            examples = run.examples()
            with run.policy.using(adapter):
                backward(run.policy, [examples[i] for i in task.batches[0]], tokens)
        else:
            groups = run.ranked()
            heads = reward.RewardHeads(run.policy.width, 1, torch.Generator())
            with torch.no_grad():
                state = heads.state_dict()
                state["weight"].copy_(start["score"][None])
            heads.to(run.policy.device)
            some = [groups[i] for i in task.batches[0]]
            ones = torch.ones(len(some), 1, device=run.policy.device)
            reward._backward(run.policy, heads, some, ones, RewardRecipe(), tokens)
    found: dict[str, Tensor] = {}
    for path, layer in run.policy.layers.items():
        for kind, values in (("a", layer.a), ("b", layer.b)):
            grad = values[adapter].grad
            assert grad is not None
            found[f"{path}.{kind}"] = grad.float().cpu()
    return found


def run_task(task: Task, result: Path, *, with_gradient: bool) -> None:
    """Train, and write figures and weights."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.of(task, Path(folder))
        heads = None
        if task.stage == "sft":
            run.sft()
        elif task.stage == "reward":
            heads = run.reward()
        else:
            run.ppo()
    measured = run.clock.result()
    parts = measured["parts"]
    if "generate and score" in parts:
        parts["score"] = parts.pop("generate and score") - parts["generate"]
        parts["train"] = measured["wall"] - parts["score"] - parts["generate"]
    if task.device == "cuda":
        measured["peak_bytes"] = torch.cuda.max_memory_allocated()
    products = run.products or run.policy.dtype
    measured["how"] = {
        "threads": torch.get_num_threads(),
        "products": str(products).removeprefix("torch."),
    }
    measured["metrics"] = run.metrics
    tensors = {name: value.float().cpu() for name, value in run.trained().items()}
    if heads is not None:
        tensors["score"] = heads.state_dict()["weight"].float().cpu().mean(0)
    save_file(tensors, result.with_suffix(".safetensors"))
    if with_gradient:
        save_file(gradient(run), result.with_suffix(".gradient.safetensors"))
        run.products = None
        save_file(gradient(run), result.with_suffix(".exact.safetensors"))
    write_result(result, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("plan", "run"))
    parser.add_argument("task", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--gradient", action="store_true")
    options = parser.parse_args()
    task = Task.read(options.task)
    if options.mode == "run":
        run_task(task, options.result, with_gradient=options.gradient)
        return
    with tempfile.TemporaryDirectory() as folder:
        plan(task, Path(folder)).write(options.result)


if __name__ == "__main__":
    main()
