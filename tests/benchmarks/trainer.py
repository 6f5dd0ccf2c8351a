"""Our trainer against TRL, side by side on this machine: run it, and it writes ``trainer.md``.

    python tests/benchmarks/trainer.py --trl-sft PYTHON --trl-ppo PYTHON [--device cuda]

The peers live in environments of their own, next to this project's versions of the rest:

    python -m venv peer-sft && peer-sft/bin/pip install trl==1.16.0 peft==0.21.2 datasets \\
        torch==2.13.0 transformers==5.23.0
    python -m venv peer-ppo && peer-ppo/bin/pip install trl==1.12.0 peft==0.21.2 datasets \\
        torch==2.13.0 transformers==5.23.0

For each size and stage both are given the same checkpoint, the same token ids in the same order,
the same first weights of the LoRA, the same optimiser and rates. TRL runs at its defaults, and at
the fastest of the settings its documentation recommends, found here on this machine; only against
these is anything claimed, and only where the gate says that both did the same work. Runs
alternate, each in a process of its own; medians and spreads are told.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import one_click  # noqa: E402
from trainer_gate import cosine, ppo_gate, reward_gate, sft_gate  # noqa: E402
from trainer_material import SIZES, Checkpoint, Size, Texts, write_checkpoint  # noqa: E402
from trainer_page import Measured, Peak, page  # noqa: E402
from trainer_task import Row, Task  # noqa: E402

HERE: Final = Path(__file__).parent
TUNED: Final = {"gradient_checkpointing": False, "logging_steps": 1000}
CANDIDATES: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "sft": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": True, "weights": "bfloat16"},
        {"bf16": False, "padding_free": True, "max_length": None},
        {"bf16": True, "padding_free": True, "max_length": None},
        {"bf16": False, "train_sampling_strategy": "group_by_length"},
        {"bf16": True, "train_sampling_strategy": "group_by_length"},
    ),
    "reward": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": True, "weights": "bfloat16"},
    ),
    "ppo": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": False, "value": "lora"},
        {"bf16": True, "value": "lora"},
    ),
}
"""Besides no gradient checkpointing. Packing into fixed lengths is left out: it makes other
batches. ``weights`` is the type the model is loaded in, ``value`` whether TRL's value model learns
by LoRA; its default is all of its weights."""
PPO: Final = {
    "prompts_per_step": 16,
    "completions_per_prompt": 2,
    "max_new_tokens": 64,
    "epochs": 2,
    "minibatches": 2,
    "kl_coef": 0.05,
    "value_warmup_steps": 0,  # or the first steps would train nothing but the value head
    "kl_budget": 1e6,
    "epoch_kl": 1e6,  # nothing may end early
    "learning_rate": 1e-4,
}
"""Our recipe, less what makes steps cheaper or ends them early."""
WORKS: Final = {"sft": "SFT", "pairs": "reward model, pairs", "rankings": "reward model, "
                "rankings of four", "ppo": "PPO"}  # fmt: skip
STAGE: Final = {"sft": "sft", "pairs": "reward", "rankings": "reward", "ppo": "ppo"}
SHARE: Final = {"rankings": 1 / 3}
"""Of the steps: for TRL a ranking of four is twelve completions."""
ROWS: Final = 8
"""Examples, or prompts with their completions, in a step: our recipe's."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    trl_sft: str
    trl_ppo: str
    device: str
    threads: int
    repeats: int
    steps: int
    ppo_steps: int
    measure: str
    sizes: tuple[str, ...]
    works: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """The same for both: as many threads."""
        return dict(os.environ) | {
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }

    def peer(self, stage: str) -> str:
        return self.trl_ppo if stage == "ppo" else self.trl_sft


class Bench:
    """Works of one size, run by both sides in ``folder``."""

    def __init__(self, folder: Path, size: Size, options: Options) -> None:
        self.folder = folder
        self.size = size
        self.options = options
        self.checkpoint: Checkpoint = write_checkpoint(folder / "model", size)
        texts = Texts(self.checkpoint, 90)
        self.held_out_rows = [texts.row() for _ in range(48)]

    def compared(self, work: str) -> Measured:
        """TRL's settings found, then both in turn, and the gate."""
        stage, options = STAGE[work], self.options
        task = self._task(work, 1)
        self._say(work, "TRL's settings")
        tuning = self._tune(work, task)
        best = min((c for c in tuning if options.measure in c), key=lambda c: c[options.measure])
        settings = best["settings"]
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for repeat in range(options.repeats):
            self._say(work, f"run {repeat + 1} of {options.repeats}")
            if stage == "ppo" and repeat:
                task = self._task(work, repeat + 1)
            ours.append(self._ours(work, task, repeat))
            theirs.append(self._trl(work, task, f"trl{repeat}", settings, gradient=repeat == 0))
        self._say(work, "TRL's defaults, gate")
        few = {"steps": 2 if stage == "ppo" else 3}
        if stage == "ppo":
            few |= {"num_sample_generations": 0}
        defaults = self._trl(work, task, "default", few)
        gate = self._gate(work, task, ours, theirs)
        return Measured(
            WORKS[work], self.size, task, ours, theirs, defaults, tuning, settings, gate
        )

    def _say(self, work: str, what: str) -> None:
        print(f"{self.size.name}, {WORKS[work]}: {what}", file=sys.stderr, flush=True)

    # --- the tasks ---------------------------------------------------------------------------

    def _task(self, work: str, seed: int) -> Task:
        """A task whose order, rates and first weights our own stage has settled."""
        made, options = self.checkpoint, self.options
        texts = Texts(made, seed)
        steps = options.ppo_steps if work == "ppo" else options.steps
        steps = max(2, round(steps * SHARE.get(work, 1)))
        rows: list[Row] = []
        groups: list[list[int]] = []
        prompts: list[list[int]] = []
        recipe: dict[str, Any] = {"learning_rate": {"sft": 2e-4}.get(work, 1e-3)}
        if work == "sft":
            rows = [texts.row() for _ in range(ROWS * steps)]
        elif work == "ppo":
            recipe = {**PPO, "steps": steps}
            prompts = [texts.prompt() for _ in range(PPO["prompts_per_step"] * steps)]  # type: ignore[operator]
        else:
            count = 2 if work == "pairs" else 4
            for _ in range(ROWS * steps):
                groups.append(list(range(len(rows), len(rows) + count)))
                rows += texts.ranking(count)
        name = self.folder / f"{work}.{seed}"
        draft = Task(
            STAGE[work], str(made.folder), str(made.gguf), options.device, seed, 16, 32.0,
            made.end_id, made.pad_id, rows, groups, prompts, steps=steps, recipe=recipe,
            start=f"{name}.start",
        ).write(name.with_suffix(".draft"))  # fmt: skip
        planned = Path(f"{name}.task")
        self._run(sys.executable, "trainer_ours.py", "plan", str(draft), str(planned))
        return Task.read(planned)

    # --- the processes -----------------------------------------------------------------------

    def _tune(self, work: str, task: Task) -> list[dict[str, Any]]:
        short = {"steps": 2 if work == "ppo" else 4}
        candidates = [json.dumps({**TUNED, **c, **short} | self._quiet(work))
                      for c in CANDIDATES[STAGE[work]]]  # fmt: skip
        result = self.folder / f"{work}.tune.json"
        self._run(
            self.options.peer(task.stage), "trainer_trl.py", "tune", self._path(work, task),
            str(result), "--settings", *candidates,
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))["candidates"]
        for candidate in found:
            candidate["settings"].pop("steps")
        return found

    def _quiet(self, work: str) -> dict[str, Any]:
        return {"num_sample_generations": 0} if work == "ppo" else {}

    def _ours(self, work: str, task: Task, repeat: int) -> dict[str, Any]:
        result = self.folder / f"{work}.ours{repeat}.json"
        more = ["--gradient"] if repeat == 0 and task.stage != "ppo" else []
        self._run(
            sys.executable, "trainer_ours.py", "run", self._path(work, task), str(result), *more
        )
        return self._result(result)

    def _trl(
        self, work: str, task: Task, name: str, settings: Mapping[str, Any], gradient: bool = False
    ) -> dict[str, Any]:
        result = self.folder / f"{work}.{name}.json"
        more = ["--gradient"] if gradient and task.stage != "ppo" else []
        wanted = dict(settings)
        if task.stage == "ppo":
            wanted["logging_steps"] = 1
        self._run(
            self.options.peer(task.stage), "trainer_trl.py", "run", self._path(work, task),
            str(result), "--settings", json.dumps(wanted), *more,
        )  # fmt: skip
        return self._result(result)

    def _path(self, work: str, task: Task) -> str:
        return str(self.folder / f"{work}.{task.seed}.task")

    def _result(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _run(self, python: str, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [python, str(HERE / program), *arguments], env=self.options.environment,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{program} {arguments[0]} failed:\n{done.stderr[-3000:]}")

    # --- the gate ----------------------------------------------------------------------------

    def _gate(
        self, work: str, task: Task, ours: Sequence[Any], theirs: Sequence[Any]
    ) -> dict[str, Any]:
        if task.stage == "ppo":
            return ppo_gate(ours, theirs, task.steps)
        names = [self.folder / f"{work}.{side}0" for side in ("ours", "trl")]
        gradient = cosine(*(Path(f"{name}.gradient.safetensors") for name in names))
        adapters = [Path(f"{name}.safetensors") for name in names]
        if task.stage == "sft":
            return sft_gate(task, self.held_out_rows, *adapters, gradient)
        texts = Texts(self.checkpoint, 92)
        rankings = [texts.ranking(2) for _ in range(100)]
        return reward_gate(task, rankings, *adapters, gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--trl-sft", required=True, help="a Python with TRL 1.16")
    parser.add_argument("--trl-ppo", required=True, help="a Python with TRL 1.12")
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="of SFT and of the reward model")
    parser.add_argument("--ppo-steps", type=int, default=4)
    parser.add_argument("--measure", choices=("wall", "cpu"), default="wall",
                        help="what ratios are of; cpu on a machine that is not quiet")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", default=())
    parser.add_argument("--works", nargs="+", choices=tuple(WORKS), default=tuple(WORKS))
    parser.add_argument("--no-one-click", action="store_true")
    parser.add_argument("--page", type=Path, default=Path(__file__).with_suffix(".md"))
    given = vars(parser.parse_args())
    path, without_run = given.pop("page"), given.pop("no_one_click")
    options = replace(Options(**given), works=tuple(given["works"]), sizes=tuple(given["sizes"]))
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in SIZES[options.device]:
            if options.sizes and size.name not in options.sizes:
                continue
            bench = Bench(folder / size.name, size, options)
            measured += [bench.compared(work) for work in options.works]
        whole = None
        if not without_run:
            print("the whole run", file=sys.stderr, flush=True)
            whole = one_click.measure(folder, options.environment)
    text = page(measured, whole, Peak.measured(options.device, options.threads), asdict(options))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
