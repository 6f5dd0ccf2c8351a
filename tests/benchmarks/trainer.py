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
from trainer_gate import Gradients, ppo_gate, reward_gate, sft_gate  # noqa: E402
from trainer_material import SIZES, Checkpoint, Size, Texts, write_checkpoint  # noqa: E402
from trainer_page import Measured, Peak, page  # noqa: E402
from trainer_task import Row, Task  # noqa: E402

HERE: Final = Path(__file__).parent
TUNED: Final = {"gradient_checkpointing": False}
CANDIDATES: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "sft": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": True, "weights": "bfloat16"},
        {"bf16": False, "padding_free": True, "max_length": None},
        {"bf16": True, "padding_free": True, "max_length": None},
        {"bf16": True, "train_sampling_strategy": "group_by_length"},
        {"bf16": True, "dataloader_num_workers": 1},
    ),
    "pairs": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": True, "weights": "bfloat16"},
    ),
    "rankings": (
        {"bf16": False},
        {"bf16": True},
        {"bf16": True, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 3},
        {"bf16": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 6},
    ),
    "ppo": (
        {"bf16": False},
        {"bf16": False, "value": "lora"},
        {"bf16": True, "value": "lora"},
    ),
}
"""Ways to run TRL that its pages recommend, the first of them plain float32; gradient checkpointing
is off in all. Packing into fixed lengths is left out: it makes other batches. ``weights`` is the
type the model is loaded in, ``value`` how TRL's value model learns; by default all of its weights
do. A larger size tries the two that were fastest at the smaller one."""
EPISODES: Final = 16
"""Prompts in a step of PPO; each is answered twice."""
PPO: Final = {
    "prompts_per_step": EPISODES,
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

    def compared(self, work: str, known: Sequence[Mapping[str, Any]] = ()) -> Measured:
        """TRL's settings found, then both in turn, and the gate.

        Args:
            known: the settings to try, the first of them plain float32; all where not given.
        """
        options, measure = self.options, self.options.measure
        task = self._task(work, 1)
        self._say(work, "TRL's settings")
        candidates = list(known) or [{**TUNED, **c} for c in CANDIDATES[work]]
        default, *tuning = self._tune(work, task, [{}, *candidates])
        settings = min(
            (c for c in (default, *tuning) if measure in c), key=lambda c: float(c[measure])
        )
        best = settings["settings"]
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for repeat in range(options.repeats):
            self._say(work, f"run {repeat + 1} of {options.repeats}")
            if work == "ppo" and repeat:
                task = self._task(work, repeat + 1)
            ours.append(self._ours(work, task, repeat))
            theirs.append(self._trl(work, task, repeat, best))
        gate = self._gate(work, task, ours, theirs)
        self._say(work, f"gate {gate}")
        return Measured(WORKS[work], self.size, task, ours, theirs, default, tuning, best, gate)

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
            prompts = [texts.prompt() for _ in range(EPISODES * steps)]
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

    def _tune(
        self, work: str, task: Task, candidates: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """TRL's steps with each of these settings, one process for all; the gradient comes from
        the second, plain float32."""
        result = self.folder / f"{work}.tune.json"
        self._run(
            self.options.peer(task.stage), "trainer_trl.py", "tune", self._path(work, task),
            str(result), "--steps", "2" if work == "ppo" else "4",
            "--settings", *(json.dumps(c) for c in candidates),
        )  # fmt: skip
        found: list[dict[str, Any]] = self._result(result)["candidates"]
        return found

    def _ours(self, work: str, task: Task, repeat: int) -> dict[str, Any]:
        result = self.folder / f"{work}.ours{repeat}.json"
        more = ["--gradient"] if repeat == 0 and task.stage != "ppo" else []
        self._run(
            sys.executable, "trainer_ours.py", "run", self._path(work, task), str(result), *more
        )
        return self._result(result)

    def _trl(
        self, work: str, task: Task, repeat: int, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        result = self.folder / f"{work}.trl{repeat}.json"
        more = ["--gradient"] if repeat == 0 and task.stage != "ppo" else []
        self._run(
            self.options.peer(task.stage), "trainer_trl.py", "run", self._path(work, task),
            str(result), "--settings", json.dumps(settings), *more,
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
        names = [f"{self.folder / work}.{name}" for name in ("ours0", "trl0", "tune")]
        gradients = Gradients(
            exact_ours=Path(f"{names[0]}.exact.safetensors"),
            exact_theirs=Path(f"{names[2]}.gradient.safetensors"),
            ours=Path(f"{names[0]}.gradient.safetensors"),
            theirs=Path(f"{names[1]}.gradient.safetensors"),
        )
        adapters = Path(f"{names[0]}.safetensors"), Path(f"{names[1]}.safetensors")
        if task.stage == "sft":
            return sft_gate(task, self.held_out_rows, *adapters, gradients)
        texts = Texts(self.checkpoint, 92)
        rankings = [texts.ranking(2) for _ in range(100)]
        return reward_gate(task, rankings, *adapters, gradients)


def fastest_two(found: Measured, measure: str) -> list[Mapping[str, Any]]:
    """Settings for the next size: plain float32 for the gate, and the two fastest of this one."""
    worked = sorted((c for c in found.tuning if measure in c), key=lambda c: float(c[measure]))
    plain = {**TUNED, **CANDIDATES["sft"][0]}
    return [plain, *(c["settings"] for c in worked[:2] if c["settings"] != plain)]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
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
        sizes = [s for s in SIZES[options.device] if s.name in (options.sizes or (s.name,))]
        for size in sizes:
            bench = Bench(folder / size.name, size, options)
            for work in options.works:
                if size != sizes[0] and work == "rankings":
                    continue
                known = [m for m in measured if m.work == WORKS[work]]
                settings = fastest_two(known[0], options.measure) if known else ()
                measured.append(bench.compared(work, settings))
        whole = None
        if not without_run:
            print("the whole run", file=sys.stderr, flush=True)
            whole = one_click.measure(folder, options.environment)
    text = page(measured, whole, Peak.measured(options.device, options.threads), asdict(options))
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
