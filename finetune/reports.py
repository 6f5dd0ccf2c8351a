"""The commands that look and do not train: evaluate and doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune import devices, estimate
from finetune.architectures import architecture_of
from finetune.contract import recipe as recipes
from finetune.contract.errors import InputError
from finetune.contract.events import Sample
from finetune.contract.gguf_file import GgufHeader, read_header
from finetune.contract.recipe import Recipe
from finetune.contract.records import read_records
from finetune.data import Dataset, Encoder, build_dataset
from finetune.evaluate import evaluate, write_for
from finetune.gguf_weights import load_trunk, read_adapter
from finetune.policy import Policy
from finetune.run_folder import feedback_files
from finetune.vocabulary import GgufVocabulary

ADAPTER = "given"


def evaluate_adapter(
    base: Path, adapter: Path, feedback: Sequence[Path], recipe: Path | None, *, as_json: bool
) -> int:
    """Measure ``adapter`` against ``base`` on the held-out part of ``feedback``.

    Returns 0 where the gate would let it through, else 1.
    """
    settings = _recipe(recipe)
    header = read_header(base)
    device = devices.choose_device(devices.parameter_count(header))
    torch.set_num_threads(device.threads)
    given = read_adapter(adapter, header)
    plan = devices.memory_plan(device, header, settings)
    print(plan.in_words(), file=sys.stderr)
    trunk = load_trunk(base, device.dtype, device.torch_device, held=plan.held)
    vocabulary = GgufVocabulary(base, header.chat_template)
    policy = Policy(trunk, copies=plan.copies, forgets=plan.forgets, blank_ids=vocabulary.blank_ids)
    policy.set_adapter(ADAPTER, given)
    data = _dataset(base, header, feedback, settings)
    prompts = (data.held_out.prompts or data.train.prompts)[: settings.evaluation.prompts]
    if not prompts:
        raise InputError("There is no usable prompt in this feedback.")
    before = write_for(
        policy,
        prompts,
        settings.evaluation,
        vocabulary.end_ids,
        settings.seed,
        rows_at_once=plan.rows,
    )
    report = evaluate(
        policy,
        (ADAPTER,),
        (),
        prompts,
        before,
        data.held_out.demonstrations,
        None,
        settings.evaluation,
        vocabulary,
        settings.seed,
        plan.tokens,
        plan.rows,
        held_out_prompts=len(prompts) if data.held_out.prompts else 0,
    )
    if as_json:
        shown = {"metrics": report.metrics, "failures": report.failures}
        print(json.dumps(shown, indent=2))
    else:
        for name, value in report.metrics.items():
            print(f"{name:24} {value:.4f}")
        for sample in report.samples:
            print(_in_words(sample))
        print("passed" if report.passed else f"refused: {', '.join(report.failures)}")
    return 0 if report.passed else 1


def doctor(
    model: Path | None, recipe: Path | None, feedback: Sequence[Path] = (), *, as_json: bool
) -> int:
    """Say what this machine trains on, whether ``model`` fits, and what each stage will take.

    Returns 1 where it does not fit.
    """
    settings = _recipe(recipe)
    header = None if model is None else read_header(model)
    if header is not None:
        architecture_of(header)
    device = devices.choose_device(0 if header is None else devices.parameter_count(header))
    found: dict[str, object] = {
        "device": device.name,
        "kind": device.kind,
        "dtype": device.dtype_name,
        "threads": device.threads,
        "free_bytes": device.free_bytes,
    }
    lines = [
        f"device   {device.name}, {device.dtype_name}, {device.threads} threads",
        f"memory   {device.free_bytes / 1e9:.2f} GB free",
    ]
    fits = True
    if model is not None and header is not None:
        plan = devices.memory_plan(device, header, settings)
        fits, parameters = plan.fits, devices.parameter_count(header)
        found |= {
            "model": str(model),
            "parameters": parameters,
            "held": plan.held,
            "copies": plan.copies,
            "forgets": plan.forgets,
            "needed_bytes": plan.total,
            "weights_bytes": plan.weights,
            "adapters_bytes": plan.adapters,
            "activations_bytes": plan.activations,
            "working_bytes": plan.working,
            "tokens_at_once": plan.tokens,
            "fits": fits,
        }
        lines += [
            f"model    {parameters / 1e6:.1f} million parameters",
            f"needs    {plan.in_words()}",
            "fits     yes" if fits else "fits     no: choose a smaller model",
        ]
        if fits:
            material, named = estimate.SIXTY_PIECES, "sixty pieces of feedback"
            if feedback:
                material = estimate.Material.of(_dataset(model, header, feedback, settings))
                named = "this feedback"
            pace = estimate.measure(model, header, device, plan, settings)
            seconds = estimate.seconds_of_stages(header, settings, pace, material)
            whole = sum(seconds.values())
            found |= {"seconds": round(whole), "seconds_of_stages": seconds}
            lines.append(f"time     about {_minutes(whole)} with {named}, or less")
            lines.append(f"         {estimate.in_words(seconds)}")
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    return 0 if fits else 1


def _dataset(base: Path, header: GgufHeader, feedback: Sequence[Path], settings: Recipe) -> Dataset:
    """Feedback as a run on ``base`` would read it; bad lines are said on stderr."""
    vocabulary = GgufVocabulary(base, header.chat_template)
    context = int(header.hyperparameter("context_length", settings.max_tokens))
    encoder = Encoder(vocabulary, header.chat_template, min(settings.max_tokens, context))
    records, bad = read_records(feedback_files(feedback))
    for line in bad:
        print(f"Skipped: {line}.", file=sys.stderr)
    return build_dataset(
        records,
        encoder,
        held_out_fraction=settings.evaluation.held_out_fraction,
        rating_weight=settings.reward.rating_weight,
        completion_room=settings.evaluation.max_new_tokens,
    )


def _recipe(path: Path | None) -> Recipe:
    if path is None:
        return Recipe()
    if not path.is_file():
        raise InputError(f"There is no recipe {path}.")
    return recipes.from_json(path.read_text(encoding="utf-8"))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _in_words(sample: Sample) -> str:
    return f"\nprompt: {sample.prompt}\nbefore: {sample.before}\nafter:  {sample.after}"
