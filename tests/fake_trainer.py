"""A trainer that learns nothing and says so properly: the events of a run, in seconds.

    python tests/fake_trainer.py MODE train|resume --run-dir DIR

Modes: "success" goes through all stages and leaves a tiny version in ``export/``; "little"
leaves the reward model and PPO out; "death" ends without a word in the middle; "failure"
ends with the gate's refusal. Each step takes ``ATTUNE_FAKE_STEP_SECONDS`` (0.01). A stop
request, or a closed stdin, is honoured after the step; ``resume`` goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune.contract import events
from finetune.contract.events import Event, RunDone, RunFailed, Stage
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import Manifest, entry_of, write_manifest

STEPS: dict[Stage, int] = {"sft": 12, "reward": 12, "ppo": 20, "evaluate": 4}
SECONDS = float(os.environ.get("ATTUNE_FAKE_STEP_SECONDS", "0.01"))


class Run:
    """One run folder and what is said about it."""

    def __init__(self, mode: str, folder: Path, resumed: bool) -> None:
        self.mode = mode
        self.folder = folder
        self.resumed = resumed
        self.stop_asked = threading.Event()
        self._checkpoint = folder / "fake_checkpoint.json"

    def say(self, event: Event) -> None:
        line = events.to_line(event)
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def listen(self) -> None:
        """Stop on request, or when the app is gone."""
        sys.stdin.readline()
        self.stop_asked.set()

    def go(self) -> Event:
        """Do all stages; the final event is returned."""
        stages: tuple[Stage, ...] = ("prepare", "sft", "reward", "ppo", "evaluate", "export")
        if self.mode == "little":
            stages = ("prepare", "sft", "evaluate", "export")
        self.say(events.RunStarted(self.folder.name, stages, "cpu", "float32", self.resumed))
        begun: dict[str, int] = {}
        if self.resumed and self._checkpoint.exists():
            begun = json.loads(self._checkpoint.read_text(encoding="utf-8"))
        for stage in stages:
            steps = STEPS.get(stage, 0)
            self.say(events.StageStarted(stage, steps))
            if stage == "prepare":
                self.say(events.Note("One conversation in five is kept for the examination."))
                time.sleep(SECONDS)
            for step in range(begun.get(stage, 0) + 1, steps + 1):
                if self.mode == "death" and stage == "reward" and step == 3:
                    os._exit(1)
                time.sleep(SECONDS)
                left = (steps - step) * SECONDS
                self.say(events.StepDone(stage, step, steps, _metrics(stage, step), left))
                begun[stage] = step
                self._checkpoint.write_text(json.dumps(begun), encoding="utf-8")
                if self.stop_asked.is_set():
                    return RunFailed("stopped", "The training was stopped.")
            if stage == "evaluate":
                for sample in _samples():
                    self.say(sample)
                if self.mode == "failure":
                    return RunFailed("gate_failed", "Held-out accuracy 0.48 (0.55 is needed).")
            self.say(events.StageDone(stage, {}))
        metrics = {
            "reward_accuracy": 0.71,
            "win_rate": 0.64,
            "length_ratio": 0.93,
            "kl_to_base": 1.42,
        }
        return RunDone(str(self.export(metrics)), stages, metrics)

    def export(self, metrics: dict[str, float]) -> Path:
        """A version folder: an adapter that changes nothing, and its manifest."""
        folder = self.folder / "export"
        folder.mkdir(exist_ok=True)
        run = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        adapter = folder / "adapter.gguf"
        adapter.write_bytes(_zero_adapter(Path(run["base"])))
        write_manifest(
            folder,
            Manifest(
                version_id=f"v-{self.folder.name}",
                name=run["name"],
                created_at=datetime.now(UTC).isoformat(),
                parent=run["parent"],
                base_sha256=run["base_sha256"],
                template_id="fake",
                files={"adapter": adapter.name},
                entries={adapter.name: entry_of(adapter)},
                run_id=self.folder.name,
                metrics=metrics,
            ),
        )
        return folder


def _zero_adapter(base: Path) -> bytes:
    """The smallest LoRA adapter for a model, in GGUF: rank 1 on one matrix, all zeros."""
    header = read_header(base)
    name, (row, rows) = next(
        (name, tensor.shape)
        for name, tensor in header.tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    )
    strings = {
        "general.architecture": header.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
    }
    tensors = {f"{name}.lora_a": (row, 1), f"{name}.lora_b": (1, rows)}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(strings) + 1)
    for key, value in strings.items():
        head += _string(key) + struct.pack("<I", 8) + _string(value)
    head += _string("adapter.lora.alpha") + struct.pack("<If", 6, 1.0)
    data = b""
    for tensor, shape in tensors.items():
        head += _string(tensor) + struct.pack("<IQQIQ", 2, *shape, 0, len(data))
        data += _padded(bytes(4 * shape[0] * shape[1]))
    return _padded(head) + data


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


def _metrics(stage: Stage, step: int) -> dict[str, float]:
    wobble = 0.06 * math.sin(2.1 * step)
    if stage == "sft":
        return {"loss": 2.6 * math.exp(-step / 9) + 0.9 + wobble}
    if stage == "reward":
        return {"loss": 0.69 * math.exp(-step / 14) + wobble / 3, "accuracy": 0.5 + 0.02 * step}
    if stage == "ppo":
        return {
            "score": -0.4 + 0.07 * step + wobble,
            "kl": 0.08 * step + abs(wobble),
            "entropy": 2.1 - 0.01 * step,
        }
    return {}


def _samples() -> Iterator[events.Sample]:
    yield events.Sample(
        "What should I cook tonight?",
        "There are many options for dinner depending on your preferences and what you have.",
        "Fried rice with egg and spring onion: ten minutes, one pan. Do you have rice?",
    )
    yield events.Sample(
        "오늘 기분이 좀 가라앉아요.",
        "기분이 가라앉을 수 있습니다.",
        "그런 날이 있죠. 잠깐 바깥 공기를 쐬어 보는 건 어때요?",
    )


def main() -> int:
    mode, verb, _, folder = sys.argv[1:5]
    run = Run(mode, Path(folder), verb == "resume")
    threading.Thread(target=run.listen, daemon=True).start()
    run.say(run.go())
    return 0


if __name__ == "__main__":
    sys.exit(main())
