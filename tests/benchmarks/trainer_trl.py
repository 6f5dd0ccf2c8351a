"""TRL at a task of ``trainer.py``, in a process and an environment of its own.

    python trainer_trl.py run TASK RESULT [--settings JSON] [--gradient]
    python trainer_trl.py tune TASK RESULT --settings JSON... [--steps N]

SFT and reward model are TRL 1.16's trainers, PPO is ``trl.experimental.ppo`` of TRL 1.12. A
setting that is not named keeps TRL's default; the order of the rows, the optimiser, its rates and
the first weights are the task's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from trainer_task import Clock, Task, write_result
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OWN = {"weights", "value"}
"""Settings that are ours to carry out; the others are arguments of TRL's configuration."""


class Ticks(TrainerCallback):
    """Ends of optimiser steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.clock.step()


def tokenizer_of(task, side):
    """Names for token ids; no text is ever cut."""
    count = json.loads((Path(task.folder) / "config.json").read_text())["vocab_size"]
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(count)}, unk_token="t0"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=f"t{task.end_id}",
        pad_token=f"t{task.pad_id}",
        padding_side=side,
    )


def lora_of(task, kind):
    return LoraConfig(
        r=task.rank, lora_alpha=task.alpha, target_modules=LINEAR, lora_dropout=0.0, task_type=kind
    )


def adapter_of(model):
    """``<module>.a`` and ``<module>.b`` -> parameter, and "score" where there is a head."""
    found = {}
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            module = name.removeprefix("base_model.model.").split(".lora_")[0]
            found[f"{module}.{'a' if '.lora_A.' in name else 'b'}"] = parameter
        elif "score" in name and "modules_to_save" in name:
            found["score"] = parameter
    return found


@torch.no_grad()
def put(model, start, ending=""):
    """Begin where the task begins; with ``ending`` at other weights where there are any."""
    for name, parameter in adapter_of(model).items():
        value = start.get(name + ending, start[name])
        parameter.copy_(value.reshape(parameter.shape))


def arguments(config, task, settings, folder, **fixed):
    given = {k: v for k, v in settings.items() if k not in OWN}
    on_cpu = {"use_cpu": True} if task.device == "cpu" else {}
    return config(
        output_dir=folder, report_to="none", disable_tqdm=True, seed=task.seed, **on_cpu,
        logging_steps=1 if task.stage == "ppo" else 1000, **(fixed | given),
    )  # fmt: skip


def optimiser_of(model, rates, eps=1e-8):
    """The task's AdamW, in the fused form that transformers takes by default."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        wanted, lr=1.0, betas=(0.9, 0.95), eps=eps, weight_decay=0.0, fused=True
    )
    last = len(rates) - 1
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: rates[min(at, last)])
    return optimiser, schedule


def kept_float(settings):
    return getattr(torch, settings.get("weights", "float32"))


# --- SFT -------------------------------------------------------------------------------------


def sft(task, settings, folder, clock, steps):
    from trl import SFTConfig, SFTTrainer

    order = [i for batch in task.batches[:steps] for i in batch]
    rows = [task.rows[i] for i in order]
    data = Dataset.from_dict({
        "input_ids": [row.ids for row in rows],
        "labels": [[-100] * row.start + row.ids[row.start :] for row in rows],
    })  # fmt: skip
    config = arguments(
        SFTConfig, task, settings, folder,
        per_device_train_batch_size=len(task.batches[0]), num_train_epochs=1,
        train_sampling_strategy="sequential", max_grad_norm=1.0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=kept_float(settings))
    model = get_peft_model(model, lora_of(task, TaskType.CAUSAL_LM))
    put(model, load_file(task.start))
    return SFTTrainer(
        model, args=config, train_dataset=data, processing_class=tokenizer_of(task, "right"),
        optimizers=optimiser_of(model, task.rates), callbacks=[Ticks(clock)],
    )  # fmt: skip


# --- reward model ----------------------------------------------------------------------------


def reward(task, settings, folder, clock, steps):
    from trl import RewardConfig, RewardTrainer

    pairs, per_step = [], 0
    for batch in task.batches[:steps]:
        before = len(pairs)
        for group in (task.groups[i] for i in batch):
            pairs += [
                (task.rows[better].ids, task.rows[worse].ids)
                for place, better in enumerate(group)
                for worse in group[place + 1 :]
            ]
        per_step = max(per_step, len(pairs) - before)
    data = Dataset.from_dict({
        "chosen_ids": [chosen for chosen, _ in pairs],
        "rejected_ids": [rejected for _, rejected in pairs],
    })  # fmt: skip
    config = arguments(
        RewardConfig, task, settings, folder, per_device_train_batch_size=per_step,
        num_train_epochs=1, train_sampling_strategy="sequential", max_grad_norm=1.0,
        center_rewards_coefficient=0.01,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(
        task.folder, num_labels=1, dtype=kept_float(settings)
    )
    model = get_peft_model(model, lora_of(task, TaskType.SEQ_CLS))
    put(model, load_file(task.start))
    return RewardTrainer(
        model, args=config, train_dataset=data, processing_class=tokenizer_of(task, "right"),
        optimizers=optimiser_of(model, task.rates, 1e-5), callbacks=[Ticks(clock)],
    )  # fmt: skip


# --- PPO -------------------------------------------------------------------------------------


def ppo(task, settings, folder, clock, steps):
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    recipe = task.recipe
    copies = recipe["completions_per_prompt"]
    episodes = recipe["prompts_per_step"] * copies
    data = Dataset.from_dict(
        {"input_ids": [prompt for prompt in task.prompts for _ in range(copies)]}
    )
    config = arguments(
        PPOConfig, task, settings, folder,
        # One call to the optimiser for each minibatch: TRL's accumulation counts micro-batches.
        per_device_train_batch_size=episodes, gradient_accumulation_steps=1,
        num_mini_batches=recipe["minibatches"], num_ppo_epochs=recipe["epochs"],
        total_episodes=steps * episodes, response_length=recipe["max_new_tokens"],
        temperature=1.0, stop_token_id=task.end_id, kl_coef=recipe["kl_coef"],
        missing_eos_penalty=2.0, max_grad_norm=1.0, save_strategy="no", num_sample_generations=0,
    )  # fmt: skip
    start = load_file(task.start)
    dtype = kept_float(settings)
    policy = AutoModelForCausalLM.from_pretrained(task.folder, dtype=dtype)
    policy = get_peft_model(policy, lora_of(task, TaskType.CAUSAL_LM))
    put(policy, start)
    heads = []
    for _ in range(2):
        model = AutoModelForSequenceClassification.from_pretrained(
            task.folder, num_labels=1, dtype=dtype
        )
        heads.append(model)
    scorer, value = heads
    with torch.no_grad():
        scorer.score.weight.copy_(start["score"][None])
        value.score.weight.zero_()
    if settings.get("value") == "lora":
        value = get_peft_model(value, lora_of(task, TaskType.SEQ_CLS))
    both = torch.nn.ModuleList([policy, value])
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer_of(task, "left"), model=policy, ref_model=None,
        reward_model=scorer.eval(), value_model=value, train_dataset=data,
        eval_dataset=data.select(range(config.per_device_eval_batch_size)),
        optimizers=optimiser_of(both, task.rates, 1e-5), callbacks=[Ticks(clock)],
    )  # fmt: skip
    plain_reward = ppo_trainer.get_reward

    def reward_of_ended(model, texts, pad_id, start):
        """TRL takes its penalty from the score, we put it in the score's place: for a random
        score, which has no idea of texts that do not end, these are two aims."""
        values, scores, ends = plain_reward(model, texts, pad_id, start)
        ended = (texts[:, start:] == task.end_id).any(1)
        return values, scores * ended, ends

    ppo_trainer.get_reward = reward_of_ended
    ppo_trainer.batch_generation = clock.timed("generate", ppo_trainer.batch_generation)
    plain = trainer.accelerator.accumulate

    @contextmanager
    def timed_minibatch(*models):
        began = time.perf_counter()
        with plain(*models):
            yield
        if clock.steps >= 0:
            clock.parts["train"] = clock.parts.get("train", 0.0) + time.perf_counter() - began

    trainer.accelerator.accumulate = timed_minibatch
    return trainer


# --- run and tune ----------------------------------------------------------------------------

STAGES = {"sft": sft, "reward": reward, "ppo": ppo}


def gradient(trainer, task):
    """Of the first step's loss, at the probe's weights, by the trainer's own step."""
    if task.stage == "sft":
        rows = [trainer.train_dataset[i] for i in range(len(task.batches[0]))]
    else:
        count = sum(len(task.groups[i]) * (len(task.groups[i]) - 1) // 2 for i in task.batches[0])
        rows = [trainer.train_dataset[i] for i in range(count)]
    put(trainer.model, load_file(task.start), ".probe")
    trainer.model.zero_grad()
    labelled = sum(token != -100 for row in rows for token in row.get("labels", [])[1:])
    trainer.training_step(
        trainer.model, trainer.data_collator(rows), torch.tensor(labelled) if labelled else None
    )
    return {
        name: parameter.grad.float().cpu().contiguous()
        for name, parameter in adapter_of(trainer.model).items()
        if name != "score"
    }


def run(task, settings, steps, folder):
    clock = Clock()
    trainer = STAGES[task.stage](task, settings, folder, clock, steps)
    trainer.train()
    return trainer, clock


def run_task(task, result, settings, with_gradient):
    with tempfile.TemporaryDirectory() as folder:
        trainer, clock = run(task, settings, task.steps, folder)
        measured = clock.result()
        if task.stage == "ppo":
            parts = measured["parts"]
            parts["score"] = measured["wall"] - parts["generate"] - parts["train"]
        if task.device == "cuda":
            measured["peak_bytes"] = torch.cuda.max_memory_allocated()
        measured["how"] = {
            "threads": torch.get_num_threads(),
            "bf16": trainer.args.bf16,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
        }
        measured["metrics"] = trainer.state.log_history
        model = trainer.policy_model if task.stage == "ppo" else trainer.model
        tensors = {
            name: parameter.detach().float().cpu().contiguous()
            for name, parameter in adapter_of(model).items()
        }
        if "score" in tensors:
            tensors["score"] = tensors["score"].reshape(-1)
        save_file(tensors, result.with_suffix(".safetensors"))
        if with_gradient:
            save_file(gradient(trainer, task), result.with_suffix(".gradient.safetensors"))
    write_result(result, measured)


def tune(task, result, candidates, steps):
    """Seconds a step with each of these settings; the second's gradient for the gate."""
    found = []
    for place, settings in enumerate(candidates):
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            try:
                trainer, clock = run(task, settings, steps, folder)
                if place == 1 and task.stage != "ppo":
                    save_file(gradient(trainer, task), result.with_suffix(".gradient.safetensors"))
            except (RuntimeError, ValueError, TypeError) as error:
                found.append({"settings": settings, "failed": f"{type(error).__name__}: {error}"})
                continue
        measured = clock.result()
        found.append({
            "settings": settings,
            "steps": clock.steps,
            "wall": measured["wall"] / clock.steps,
            "cpu": measured["cpu"] / clock.steps,
        })  # fmt: skip
    write_result(result, {"candidates": found})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("run", "tune"))
    parser.add_argument("task", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--settings", type=json.loads, nargs="+", default=[{}])
    parser.add_argument("--gradient", action="store_true")
    parser.add_argument("--steps", type=int, default=4, help="of each candidate")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    task = Task.read(options.task)
    if options.mode == "run":
        run_task(task, options.result, dict(options.settings[0]), options.gradient)
    else:
        tune(task, options.result, options.settings, options.steps)


if __name__ == "__main__":
    main()
