"""The training loop of the starter model: pretraining, then chat tuning, both by ``train_stage``.

Documents are packed into rows without padding, and attention stays inside a document by a mask;
rotary positions are relative, so they need no restart. The loss is the mean over the counted
tokens of the whole step, however the step is cut into passes. Everything that is random follows
from the recipe's seed and the step number, so a resumed stage goes the way it would have gone.

A checkpoint is one safetensors file (weights, optimiser, progress in its header), written beside
and moved in whole. SIGTERM, Ctrl-C or a file ``stop`` in the work folder save and leave.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from finetune.starter.model import StarterModel
from finetune.starter.optimizer import MuonWithAdam
from finetune.starter.recipe import StarterRecipe
from finetune.starter.tokenizer import END_OF_TEXT, EncodedText

IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """Packed text: ids, the document each token belongs to (-1: padding), and what counts.

    All (N, T). ``targets[n, t]`` is the token after ``ids[n, t]`` when that one counts and belongs
    to the same document, otherwise IGNORED.
    """

    ids: Tensor
    segments: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]


@dataclass(frozen=True)
class Progress:
    """Where a training stands; travels in the checkpoint's header."""

    stage: str = "pretrain"
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Stop:
    """Raised by no one: asked. True once somebody wants the training to save and leave."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._asked = False

    def ask(self, *_: object) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked or self._file.exists()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        before = {s: signal.signal(s, self.ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# ---------------------------------------------------------------- packing


def pack(documents: Sequence[EncodedText], length: int, seed: int, cut_long: bool) -> Rows:
    """Shuffle documents and lay them into rows of ``length``.

    With ``cut_long`` the rows are full and a document may go on in the next row (pretraining);
    without, a document stays whole, rows may end in padding, and one longer than a row is left
    out (chat tuning: a reply without its prompt teaches nothing good).
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    rows: list[list[tuple[int, EncodedText]]] = [[]]
    room = length
    for index in order:
        rest = documents[index]
        if not cut_long and len(rest.ids) > length:
            continue
        while rest.ids:
            if room == 0 or (not cut_long and room < len(rest.ids)):
                rows.append([])
                room = length
            piece = EncodedText(rest.ids[:room], rest.mask[:room])
            rows[-1].append((index, piece))
            rest = EncodedText(rest.ids[room:], rest.mask[room:])
            room -= len(piece.ids)
    ids = torch.full((len(rows), length), END_OF_TEXT, dtype=torch.int32)
    segments = torch.full((len(rows), length), -1, dtype=torch.int32)
    targets = torch.full((len(rows), length), IGNORED, dtype=torch.int32)
    for number, row in enumerate(rows):
        start = 0
        for index, piece in row:
            end = start + len(piece.ids)
            ids[number, start:end] = torch.tensor(piece.ids, dtype=torch.int32)
            segments[number, start:end] = index
            following = [t if m else IGNORED for t, m in zip(piece.ids, piece.mask, strict=True)]
            targets[number, start : end - 1] = torch.tensor(following[1:], dtype=torch.int32)
            start = end
    return Rows(ids, segments, targets)


def row_numbers(count: int, first: int, many: int, seed: int) -> list[int]:
    """``many`` rows from position ``first`` on: passes over all rows, each in its own order."""
    numbers = []
    for position in range(first, first + many):
        lap, place = divmod(position, count)
        numbers.append(_order(count, seed + lap)[place])
    return numbers


@lru_cache(maxsize=4)
def _order(count: int, seed: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)


def allowed_attention(segments: Tensor) -> Tensor:
    """(B, T) document numbers to (B, 1, T, T): earlier tokens of the same document, and itself."""
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()[:, None]


# ---------------------------------------------------------------- loss


def summed_loss(model: StarterModel, ids: Tensor, allowed: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the counted tokens."""
    hidden = model(ids, allowed)
    scores = model.logits(hidden).view(-1, model.shape.vocabulary).float()
    return F.cross_entropy(scores, targets.view(-1), ignore_index=IGNORED, reduction="sum")


def summed_loss_bfloat16(
    model: StarterModel, ids: Tensor, allowed: Tensor, targets: Tensor
) -> Tensor:
    """As ``summed_loss``; the products in bfloat16, weights, sums and the loss in float32."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        return summed_loss(model, ids, allowed, targets)


LossFunction = Callable[[StarterModel, Tensor, Tensor, Tensor], Tensor]


def pass_loss(loss: LossFunction, model: StarterModel, rows: Rows, numbers: list[int]) -> Tensor:
    device = model.embed_tokens.weight.device
    ids, targets, segments = (
        rows_of[numbers].to(device, non_blocking=True)
        for rows_of in (rows.ids, rows.targets, rows.segments)
    )
    return loss(model, ids.long(), allowed_attention(segments), targets.long())


@torch.no_grad()
def held_out_loss(
    model: StarterModel, rows: Rows, byte_lengths: Tensor, most_tokens: int
) -> tuple[float, float]:
    """Nats per token and bits per byte over the first ``most_tokens`` of the rows."""
    use = max(1, min(len(rows), most_tokens // rows.ids.shape[1]))
    nats, tokens, bytes_ = 0.0, 0, 0
    for start in range(0, use, 8):
        numbers = list(range(start, min(start + 8, use)))
        nats += float(pass_loss(summed_loss, model, rows, numbers))
        counted = rows.targets[numbers]
        counted = counted[counted != IGNORED].long()
        tokens += len(counted)
        bytes_ += int(byte_lengths[counted].sum())
    return nats / max(tokens, 1), nats / math.log(2) / max(bytes_, 1)


# ---------------------------------------------------------------- checkpoints


def save_checkpoint(
    path: Path, model: StarterModel, optimizer: MuonWithAdam, progress: Progress
) -> None:
    tensors = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    tensors |= {f"optimizer.{n}": t.contiguous() for n, t in optimizer.state.items()}
    beside = path.with_name(path.name + ".part")
    save_file(tensors, str(beside), metadata={"progress": json.dumps(asdict(progress))})
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


def load_checkpoint(
    path: Path, model: StarterModel, optimizer: MuonWithAdam | None = None
) -> Progress:
    with safe_open(str(path), framework="pt") as file:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
        if optimizer is not None:
            optimizer.load({n: file.get_tensor(f"optimizer.{n}") for n in optimizer.state})
        return Progress(**json.loads(file.metadata()["progress"]))


# ---------------------------------------------------------------- the loop


def rate_share(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Trapezoid: up during ``warmup``, level, then linearly to zero at the end."""
    up = (step + 1) / max(warmup, 1)
    down = (steps - step) / max(steps * decay_share, 1)
    return max(0.0, min(1.0, up, down))


@dataclass(frozen=True)
class Reading:
    """Rows that a stage reads, and how much of every step they are."""

    rows: Rows
    long_rows: Rows | None = None
    """Read in their place in the last steps of the stage."""
    share: float = 1.0
    """Of the tokens of a step."""
    rows_before: int = 0
    """What an earlier stage has read of ``rows``: this one goes on there."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it reads, steps and rates.

    With ``end_seconds`` the steps are a guess that is mended while the rate is level and the rows
    are short, so that the stage ends when training has taken that long, however busy the machine.
    """

    name: str
    steps: int
    readings: tuple[Reading, ...]
    rate_scale: float
    decay_share: float = 0.0
    end_seconds: float | None = None


def passes_of_step(
    recipe: StarterRecipe, plan: StagePlan, step: int
) -> list[tuple[Rows, list[int]]]:
    """What a step reads, as rows and their numbers, cut into passes through the network."""
    is_long = step >= plan.steps - round(plan.steps * recipe.long_share)
    passes = []
    for reading in plan.readings:
        rows, before = reading.rows, reading.rows_before
        if is_long and reading.long_rows is not None:
            rows, before = reading.long_rows, 0
        length = rows.ids.shape[1]
        many = max(1, round(recipe.tokens_per_step * reading.share) // length)
        numbers = row_numbers(len(rows), before + step * many, many, recipe.seed)
        per_pass = recipe.rows_in_pass(length)
        passes += [(rows, numbers[at : at + per_pass]) for at in range(0, many, per_pass)]
    return passes


def mended_steps(plan: StagePlan, now: Progress, seconds_per_step: float, long_share: float) -> int:
    """Steps that fit into the stage's time; never fewer than let the rate begin to fall now, and
    the long rows come. Once either has begun the steps stay."""
    free = min(1 - plan.decay_share, 1 - long_share)
    if plan.end_seconds is None or now.step >= plan.steps * free:
        return plan.steps
    fitting = now.step + int((plan.end_seconds - now.seconds) / seconds_per_step)
    return max(fitting, math.ceil(now.step / free))


@dataclass(frozen=True)
class HeldOut:
    """What is measured beside training: packed rows by name, and bytes for each token."""

    rows: dict[str, Rows]
    byte_lengths: Tensor

    def measured(self, model: StarterModel, most_tokens: int) -> dict[str, float]:
        """Entries of the log: nats a token and bits a byte of each."""
        found = {}
        for name, held in self.rows.items():
            nats, bits = held_out_loss(model, held, self.byte_lengths, most_tokens)
            found[f"held_out/{name}"] = round(nats, 4)
            found[f"held_out/{name}/bits_per_byte"] = round(bits, 4)
        return found


def train_stage(
    recipe: StarterRecipe,
    plan: StagePlan,
    model: StarterModel,
    optimizer: MuonWithAdam,
    progress: Progress,
    held_out: HeldOut,
    work: Path,
    stop: Stop,
    loss: LossFunction = summed_loss,
    keep_plan: Callable[[StagePlan], None] = lambda plan: None,
) -> Progress:
    """Train from ``progress`` to the end of the plan or until asked to stop; returns how far.

    The checkpoint ``work/checkpoint.safetensors`` stands at the returned progress. ``keep_plan``
    is called with a mended plan, for a resumed run to find.
    """
    checkpoint, log = work / "checkpoint.safetensors", work / "log.jsonl"
    began, before = time.monotonic(), progress
    paced_from: Progress | None = None  # after the first step, which compiles
    while progress.step < plan.steps and not stop:
        step = progress.step
        passes = passes_of_step(recipe, plan, step)
        counted = sum(int((rows.targets[numbers] != IGNORED).sum()) for rows, numbers in passes)
        total = 0.0
        for rows, numbers in passes:
            part = pass_loss(loss, model, rows, numbers)
            (part / max(counted, 1)).backward()  # type: ignore[no-untyped-call]
            total += float(part.detach())
        share = rate_share(step, plan.steps, recipe.warmup_steps, plan.decay_share)
        share *= plan.rate_scale
        torch.nn.utils.clip_grad_norm_(list(optimizer.vectors.values()), recipe.clip_norm)
        optimizer.step(recipe.matrix_rate * share, recipe.vector_rate * share)
        progress = replace(
            progress,
            step=step + 1,
            tokens=progress.tokens + sum(rows.ids[numbers].numel() for rows, numbers in passes),
            seconds=before.seconds + time.monotonic() - began,
        )
        if paced_from is None:
            paced_from = progress
        entry: dict[str, object] = {
            "stage": plan.name,
            "step": progress.step,
            "of": plan.steps,
            "tokens": progress.tokens,
            "loss": round(total / max(counted, 1), 4),
            "rate": round(share, 4),
            "seconds": round(progress.seconds, 1),
            "tokens_per_s": round(
                (progress.tokens - before.tokens) / max(time.monotonic() - began, 1e-9)
            ),
        }
        last = progress.step == plan.steps
        if progress.step % recipe.evaluate_every == 0 or last:
            entry |= held_out.measured(model, recipe.evaluate_tokens)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if progress.step % 10 == 0 or last:
            print(" ".join(f"{k}={v}" for k, v in entry.items()), file=sys.stderr, flush=True)
        if progress.step % recipe.checkpoint_every == 0 and not last:
            if progress.step > paced_from.step:
                pace = (progress.seconds - paced_from.seconds) / (progress.step - paced_from.step)
                steps = mended_steps(plan, progress, pace, recipe.long_share)
                plan = replace(plan, steps=steps)
                keep_plan(plan)
            save_checkpoint(checkpoint, model, optimizer, progress)
    save_checkpoint(checkpoint, model, optimizer, progress)
    return progress
