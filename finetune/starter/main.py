"""The command ``starter``: from the data folder to a GGUF file, resumable at any point.

    corpus -> tokenizer -> pretraining -> chat tuning -> export and card

The work folder is the truth: ``recipe.json``, ``tokenizer.json``, ``corpus-*.safetensors``,
``plan.json`` (steps, first guessed by a probe of the speed), ``checkpoint.safetensors`` and
``log.jsonl``. Whatever exists there is not made again. While a stage's rate is level its number of
steps is mended by the speed that was really had. Prints plain lines on stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from finetune.contract.errors import InputError
from finetune.contract.manifest import write_whole
from finetune.starter.card import write_card
from finetune.starter.corpus import (
    SOURCES,
    Document,
    chat_documents,
    own_documents,
    pretraining_documents,
)
from finetune.starter.curves import write_curves
from finetune.starter.export import write_gguf
from finetune.starter.model import StarterModel
from finetune.starter.optimizer import MuonWithAdam
from finetune.starter.pretrain import (
    HeldOut,
    LossFunction,
    Progress,
    Reading,
    Rows,
    StagePlan,
    Stop,
    load_checkpoint,
    pack,
    pass_loss,
    passes_of_step,
    save_checkpoint,
    summed_loss,
    summed_loss_bfloat16,
    train_stage,
)
from finetune.starter.recipe import StarterRecipe
from finetune.starter.tokenizer import (
    END_OF_TEXT,
    EncodedText,
    bytes_per_token,
    encode_chat,
    encode_document,
    load_tokenizer,
    save_tokenizer,
    token_byte_lengths,
    train_tokenizer,
)

CONVERSATIONS = Path(__file__).parent / "conversations"
CPU = torch.device("cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train the bundled model from scratch and write it as a GGUF file."
    parser.add_argument("--data", type=Path, required=True, help="folder of the public text sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for progress; resumable")
    parser.add_argument("--output", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--minutes", type=float, help="time for training on this machine")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile")


def run(arguments: argparse.Namespace) -> int:
    """0 when the file is written, 3 when stopped before (run again to go on)."""
    if not arguments.data.is_dir():
        raise InputError(f"There is no data folder {arguments.data}.")
    if arguments.output.suffix != ".gguf":
        raise InputError("The output must be a file name that ends in .gguf.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = StarterRecipe.for_gpu() if device.type == "cuda" else StarterRecipe()
    if arguments.minutes is not None:
        if arguments.minutes <= 0:
            raise InputError("The minutes must be more than zero.")
        recipe = replace(recipe, minutes=arguments.minutes)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    _same_recipe(work / "recipe.json", recipe)
    (work / "stop").unlink(missing_ok=True)  # it stopped an earlier run
    stop = Stop(work / "stop")
    with stop.on_signals():
        mixed = device.type == "cuda" or bfloat16_is_faster()
        loss = summed_loss_bfloat16 if mixed else summed_loss
        if not arguments.no_compile:
            loss = torch.compile(loss, dynamic=False)
        return train(recipe, arguments.data, work, arguments.output, stop, loss, device)


def train(
    recipe: StarterRecipe,
    data: Path,
    work: Path,
    output: Path,
    stop: Stop,
    loss: LossFunction,
    device: torch.device = CPU,
) -> int:
    """Every step that is not yet done in ``work``; returns what ``run`` returns."""
    documents = None
    if not (work / "tokenizer.json").exists():
        documents = list(_all_pretraining(data))
        _make_tokenizer(documents, recipe, work / "tokenizer.json")
    tokenizer = load_tokenizer(work / "tokenizer.json")
    if not (work / "corpus-pretrain.safetensors").exists():
        documents = documents or list(_all_pretraining(data))
        _encode(documents, tokenizer, recipe, work, "pretrain")
    model = StarterModel(recipe.shape, recipe.seed).to(device)
    optimizer = MuonWithAdam(model, recipe.momentum, recipe.weight_decay)
    progress = Progress()
    if (work / "checkpoint.safetensors").exists():
        progress = load_checkpoint(work / "checkpoint.safetensors", model, optimizer)
        say(f"going on at {progress.stage}, step {progress.step}")
    byte_lengths = torch.tensor(token_byte_lengths(tokenizer))

    for stage in ("pretrain", "chat"):
        if progress.stage != stage:
            continue
        if stage == "chat":
            if not (work / "corpus-chat.safetensors").exists():
                _encode(list(_all_chat(data, recipe)), tokenizer, recipe, work, "chat")
        _same_reading(work / f"corpus-{stage}.safetensors", stage)
        rows, held = _load_rows(work, stage)
        plan = _plan(recipe, stage, rows, work, model, loss, progress)
        held_out = HeldOut(held, byte_lengths)
        keep = partial(_keep_plan, work)
        progress = train_stage(
            recipe, plan, model, optimizer, progress, held_out, work, stop, loss, keep
        )
        if progress.step < _kept_plans(work)[stage]:
            say(f"stopped at {stage}, step {progress.step}; run again to go on")
            return 3
        if stage == "pretrain":
            save_checkpoint(work / "pretrained.safetensors", model, optimizer, progress)
            optimizer = MuonWithAdam(model, recipe.momentum, recipe.weight_decay)
            progress = replace(progress, stage="chat", step=0)
            save_checkpoint(work / "checkpoint.safetensors", model, optimizer, progress)
    model.cpu()
    blend(model, work / "pretrained.safetensors", recipe.chat_weight)
    finished = {"stage": "chat", **asdict(progress), "blended": recipe.chat_weight}
    finished |= held_out.measured(model, recipe.evaluate_tokens)
    with (work / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(finished) + "\n")
    own, _ = own_documents(CONVERSATIONS, recipe.own_epochs, recipe.phrasing_epochs)
    machine = "on one CUDA card" if device.type == "cuda" else "on a shared CPU, without a GPU"
    card = output.with_name("MODEL_CARD.md")
    write_card(card, recipe, work / "log.jsonl", model, tokenizer, own, machine)
    write_curves(work / "log.jsonl", output.with_name("curves.svg"))
    write_gguf(output, model, tokenizer, card=card.read_text(encoding="utf-8"))
    say(f"wrote {output.name}, {output.stat().st_size / 1e6:.1f} MB")
    return 0


@torch.no_grad()
def blend(model: StarterModel, before: Path, share: float) -> None:
    """Between the weights before chat tuning and after it, ``share`` of the way (Wortsman et al.
    2022, "Robust fine-tuning of zero-shot models")."""
    pretrained = StarterModel(model.shape)
    load_checkpoint(before, pretrained)
    others = dict(pretrained.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.lerp_(others[name], 1.0 - share)


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- steps before training


def _same_recipe(path: Path, recipe: StarterRecipe) -> None:
    """Write the recipe, or check that the folder was begun with this one (time may differ)."""
    now = json.loads(recipe.to_json())
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else now
    differing = sorted(k for k in now if k != "minutes" and before.get(k) != now[k])
    if differing:
        names = ", ".join(differing)
        raise InputError(f"The work folder was begun with another recipe ({names} differ).")
    write_whole(path, recipe.to_json().encode("utf-8"))


def _same_reading(corpus: Path, stage: str) -> None:
    """The card counts and asks what was read: mixture and conversations must still be those."""
    with safe_open(str(corpus), framework="pt") as file:
        read = file.metadata() or {}
    if read != _reading(stage):
        what = "Mixture or conversations have" if stage == "chat" else "The mixture has"
        raise InputError(
            f"{what} changed since this work folder read them. Delete {corpus.name} in it to go "
            "on with the new ones."
        )


def _reading(stage: str) -> dict[str, str]:
    """What a stage reads, by digests: the files and their shares, in chat tuning ours as well."""
    mixture = {"mixture": hashlib.sha256(repr(SOURCES).encode()).hexdigest()}
    return mixture | ({"conversations": digest_of(CONVERSATIONS)} if stage == "chat" else {})


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and texts of our conversations."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.txt")):
        total.update(f"{path.name}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _all_pretraining(data: Path) -> Iterable[Document]:
    for source in SOURCES:
        yield from pretraining_documents(data, source)


def _all_chat(data: Path, recipe: StarterRecipe) -> Iterable[Document]:
    own, problems = own_documents(CONVERSATIONS, recipe.own_epochs, recipe.phrasing_epochs)
    for problem in problems:
        say(f"left out: {problem}")
    yield from own
    whole = own_documents(CONVERSATIONS, recipe.own_read_epochs, recipe.phrasing_read_epochs)[0]
    for document in whole:
        if not document.held_out:
            learned = tuple(replace(message, learn=True) for message in document.messages)
            yield replace(document, messages=learned)
    for source in SOURCES:
        yield from chat_documents(data, source)


def _plain_text(document: Document) -> str:
    return document.text or "\n".join(m.content for m in document.messages)


def _make_tokenizer(documents: list[Document], recipe: StarterRecipe, path: Path) -> None:
    say("training the tokenizer")
    learned = (_plain_text(d) for d in documents if not d.held_out)
    tokenizer = train_tokenizer(learned, recipe.vocabulary)
    for language in ("en", "ko"):
        held = [_plain_text(d) for d in documents if d.held_out and d.language == language]
        say(f"bytes per token, held-out {language}: {bytes_per_token(tokenizer, held):.2f}")
    save_tokenizer(tokenizer, path)


def _encode_document(tokenizer: Tokenizer, document: Document, stage: str) -> EncodedText:
    """In pretraining every token counts; in chat tuning the marked completions do."""
    if document.text:
        return encode_document(tokenizer, document.text)
    encoded = encode_chat(tokenizer, document.messages)
    if stage == "pretrain":
        ids = [*encoded.ids, END_OF_TEXT]
        return EncodedText(ids, [True] * len(ids))
    return encoded


def _encode(
    documents: list[Document], tokenizer: Tokenizer, recipe: StarterRecipe, work: Path, stage: str
) -> None:
    """Tokenise, print the sizes, pack, and keep the rows as ``corpus-<stage>.safetensors``."""
    say(f"tokenising {len(documents)} documents for {stage}")
    tokens: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    learned: list[EncodedText] = []
    held: dict[str, list[EncodedText]] = {}
    for document in documents:
        encoded = _encode_document(tokenizer, document, stage)
        if document.held_out:
            language = "ko" if document.language == "ko" else "en"
            own = "own_" if document.source == "conversations" else ""
            held.setdefault(f"{stage}_{own}{language}", []).append(encoded)
        else:
            learned.append(encoded)
            tokens[document.source, document.language] += len(encoded.ids)
            counted[document.source, document.language] += sum(encoded.mask)
    total = max(sum(tokens.values()), 1)
    for (source, language), count in sorted(tokens.items(), key=lambda item: -item[1]):
        in_loss = counted[source, language]
        say(f"  {source:28} {language:4} {count:9,} tokens {in_loss:9,} in the loss")
    for language in ("en", "ko", "both"):
        part = sum(n for (_, spoken), n in tokens.items() if spoken == language)
        say(f"  {language}: {part:,} tokens, {100 * part / total:.1f} %")
    length = recipe.row_length if stage == "pretrain" else recipe.chat_row_length
    packed = {"rows": pack(learned, length, recipe.seed, stage == "pretrain")}
    if stage == "pretrain":
        long = [text for text in learned if len(text.ids) > recipe.row_length] or learned
        packed["long"] = pack(long, recipe.long_row_length, recipe.seed, True)
    for name, texts in sorted(held.items()):
        random.Random(recipe.seed).shuffle(texts)
        packed[f"held/{name}"] = pack(texts, length, recipe.seed, stage == "pretrain")
    tensors: dict[str, Tensor] = {}
    for name, rows in packed.items():
        say(f"  {name}: {len(rows)} rows of {rows.ids.shape[1]}")
        tensors |= {f"{name}|ids": rows.ids, f"{name}|segments": rows.segments}
        tensors[f"{name}|targets"] = rows.targets
    path = work / f"corpus-{stage}.safetensors"
    save_file(tensors, str(path.with_suffix(".part")), _reading(stage))
    path.with_suffix(".part").replace(path)


def _load_rows(work: Path, stage: str) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """The rows, named like "pretrain/long", and the held-out rows, of this stage and of those
    before it."""
    rows: dict[str, Rows] = {}
    held: dict[str, Rows] = {}
    for part in ("pretrain", "chat") if stage == "chat" else ("pretrain",):
        tensors = load_file(str(work / f"corpus-{part}.safetensors"))
        for name in {key.split("|")[0] for key in tensors}:
            loaded = Rows(*(tensors[f"{name}|{k}"] for k in ("ids", "segments", "targets")))
            if name.startswith("held/"):
                held[name.removeprefix("held/")] = loaded
            else:
                rows[f"{part}/{name}"] = loaded
    return rows, dict(sorted(held.items()))


def bfloat16_is_faster() -> bool:
    """By probe: without instructions for it, bfloat16 is tens of times slower than float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(2048, 256, dtype=dtype), torch.ones(768, 256, dtype=dtype)
        best = math.inf
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            best = min(best, time.perf_counter() - began)
        seconds[dtype] = best
    faster = seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]
    say(f"products in {'bfloat16' if faster else 'float32'}")
    return faster


def _plan(
    recipe: StarterRecipe,
    stage: str,
    rows: dict[str, Rows],
    work: Path,
    model: StarterModel,
    loss: LossFunction,
    progress: Progress,
) -> StagePlan:
    """How many steps fit into the time: a first guess, or what ``plan.json`` has kept."""
    share = recipe.pretrain_share if stage == "pretrain" else 1.0
    end = recipe.minutes * 60 * share
    plans = _kept_plans(work)
    text = Reading(rows["pretrain/rows"], rows["pretrain/long"])
    if stage == "pretrain":
        plan = StagePlan(stage, plans.get(stage, 0), (text,), 1.0, 0.0, end)
    else:
        read = plans["pretrain"] - round(plans["pretrain"] * recipe.long_share)
        read *= recipe.tokens_per_step // recipe.row_length
        text = replace(text, share=recipe.chat_prose_share, rows_before=read)
        talk = Reading(rows["chat/rows"], share=1.0 - recipe.chat_prose_share)
        rates = recipe.chat_rate_scale, recipe.chat_decay_share
        plan = StagePlan(stage, plans.get(stage, 0), (talk, text), *rates, end)
    if stage not in plans:
        seconds = _seconds_per_step(recipe, plan, model, loss)
        steps = max(recipe.warmup_steps + 10, int((end - progress.seconds) / seconds))
        plan = replace(plan, steps=steps)
        say(f"{stage}: {seconds:.2f} s a step, {steps} steps")
    _keep_plan(work, plan)
    return plan


def _kept_plans(work: Path) -> dict[str, int]:
    path = work / "plan.json"
    plans: dict[str, int] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return plans


def _keep_plan(work: Path, plan: StagePlan) -> None:
    plans = _kept_plans(work) | {plan.name: plan.steps}
    write_whole(work / "plan.json", (json.dumps(plans) + "\n").encode("utf-8"))


def _seconds_per_step(
    recipe: StarterRecipe, plan: StagePlan, model: StarterModel, loss: LossFunction
) -> float:
    """The best of a few steps on a copy of the model (the first compiles, and other programs may
    disturb any of them), and 10 % for measuring and saving."""
    copy = StarterModel(model.shape).to(model.embed_tokens.weight.device)
    optimizer = MuonWithAdam(copy, recipe.momentum, recipe.weight_decay)
    plan = replace(plan, steps=sys.maxsize)  # none of these steps is among the last, the long ones
    best = math.inf
    device = copy.embed_tokens.weight.device
    for step in range(5):
        began = time.monotonic()
        for rows, numbers in passes_of_step(recipe, plan, step):
            part = pass_loss(loss, copy, rows, numbers)
            part.backward()  # type: ignore[no-untyped-call]
        optimizer.step(1e-3, 1e-3)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - began)
    return best * 1.1
