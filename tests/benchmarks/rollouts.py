"""Three ways to roll out, end to end on a processor; writes ``rollouts.md``.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.rollouts --work DIR

One rollout is 16 prompts of 12 to 59 tokens, 2 completions of at most 64 tokens each, with the
log-probability of every token known at the end. The ways run in turn in one process; what is
told are medians of processor seconds, which a busy machine disturbs less than the clock.

    ours        ``finetune.generate``: cache laid out once, rows leave when they end
    growing     the same with transformers' ``DynamicCache``: left-padded prompts, masks made in
                each step, a search through all cumulative probabilities
    llama.cpp   the adapter written and loaded anew (base loaded once), a prompt read once for
                its completions, drawn by its own sampler at temperature 1, scored again in torch

``DIR`` keeps the random model of 30 million weights.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import torch
from torch import Tensor
from transformers import DynamicCache

from finetune.contract.gguf_file import read_header
from finetune.contract.recipe import LoraRecipe, PpoRecipe, SftRecipe
from finetune.export import write_adapter
from finetune.generate import Completed, sample
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from finetune.rollouts import POLICY, score_tokens
from finetune.stage import generator_for
from finetune.vocabulary import GgufVocabulary, quiet_llama_cpp
from tests.sized_models import SIZE_30M, write_sized_model

PAGE = Path(__file__).with_suffix(".md")
BUNDLED = Path(__file__).resolve().parents[2] / "resources" / "models" / "attune-starter.gguf"
PROMPTS, COPIES, TOKENS = 16, 2, 64
SPREAD = 0.005
"""Of B: a policy that has moved a little."""
Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Bench:
    """One model with its adapters, prompts and end tokens."""

    model: Path
    policy: Policy
    prompts: Prompts
    end_ids: frozenset[int]


def bench_of(model: Path) -> Bench:
    policy = Policy(load_trunk(model))
    for name, lora in (("sft", SftRecipe().lora), ("ppo", PpoRecipe().lora)):
        _add(policy, name, lora)
    generator = torch.Generator().manual_seed(0)
    lengths = sorted(torch.randint(12, 60, (PROMPTS,), generator=generator).tolist())
    prompts = [
        tuple(torch.randint(0, 8000, (length,), generator=generator).tolist()) for length in lengths
    ]
    return Bench(model, policy, prompts, frozenset(GgufVocabulary(model).end_ids))


def _add(policy: Policy, name: str, lora: LoraRecipe) -> None:
    generator = generator_for(1, name)
    policy.add_adapter(name, lora, generator)
    with torch.no_grad():
        for layer in policy.layers.values():
            layer.b[name].normal_(std=SPREAD, generator=generator)


# --- ours, and with a growing cache ------------------------------------------------------------


def ours(bench: Bench) -> list[Completed]:
    with bench.policy.merged(*POLICY):
        return sample(
            bench.policy, bench.prompts, copies=COPIES, max_new_tokens=TOKENS,
            end_ids=bench.end_ids, generator=generator_for(1), keep_states=True,
        )  # fmt: skip


@torch.inference_mode()
def growing(bench: Bench) -> list[Completed]:
    policy, prompts = bench.policy, bench.prompts
    trunk: Any = policy.trunk
    luck = torch.rand(len(prompts) * COPIES, TOKENS, generator=generator_for(1))
    width = max(map(len, prompts))
    ids, real = (torch.zeros(len(prompts), width, dtype=torch.long) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        real[row, width - len(prompt) :] = 1
    cache = DynamicCache(config=policy.config)

    def hidden(ids: Tensor, positions: Tensor) -> Tensor:
        out: Tensor = trunk(
            input_ids=ids, attention_mask=real, position_ids=positions, past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # fmt: skip
        return out[:, -1]

    written: list[tuple[list[int], list[float]]] = [([], []) for _ in luck]
    alive = list(range(len(luck)))
    with policy.merged(*POLICY):
        last = hidden(ids, (real.cumsum(1) - 1).clamp(min=0)).repeat_interleave(COPIES, 0)
        cache.batch_repeat_interleave(COPIES)
        real = real.repeat_interleave(COPIES, 0)
        for step in range(TOKENS):
            logprobs = policy.logits(last).log_softmax(-1)
            cumulative = logprobs.double().exp().cumsum(-1)
            point = luck[alive, step].double()[:, None] * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, point, right=True)
            _ = -(logprobs.exp() * logprobs).sum(-1)  # entropies, as ours has them
            for row, token, logprob in zip(
                alive, tokens[:, 0].tolist(), logprobs.gather(1, tokens)[:, 0].tolist(), strict=True
            ):
                if not written[row][0] or written[row][0][-1] not in bench.end_ids:
                    written[row][0].append(token)
                    written[row][1].append(logprob)
            going = [i for i, row in enumerate(alive) if written[row][0][-1] not in bench.end_ids]
            if not going or step == TOKENS - 1:
                break
            if len(going) <= 0.75 * len(alive):
                keep = torch.tensor(going)
                cache.batch_select_indices(keep)
                real, tokens = real[keep], tokens[keep]
                alive = [alive[i] for i in going]
            real = torch.cat([real, real.new_ones(len(alive), 1)], dim=1)
            last = hidden(tokens, real.sum(1, keepdim=True) - 1)
    return [
        Completed(prompts[row // COPIES], tuple(ids), tuple(logprobs), ids[-1] in bench.end_ids)
        for row, (ids, logprobs) in enumerate(written)
    ]


# --- llama.cpp ---------------------------------------------------------------------------------


class LlamaCpp:
    """The base, loaded once; each rollout brings its adapter."""

    def __init__(self, bench: Bench, threads: int, adapter: Path) -> None:
        self._bench, self._path = bench, adapter
        quiet_llama_cpp()
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(bench.model).encode(), params)
        own = llama_cpp.llama_context_default_params()
        own.n_ctx, own.n_batch, own.n_ubatch = PROMPTS * COPIES * (60 + TOKENS), 1024, 512
        own.n_seq_max, own.kv_unified = PROMPTS * COPIES, True
        own.n_threads = own.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, own)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._sampler = llama_cpp.llama_sampler_init_dist(1)
        self._batch = llama_cpp.llama_batch_init(1024, 0, 1)

    def __call__(self, bench: Bench) -> list[Completed]:
        write_adapter(self._path, read_header(bench.model), bench.policy.joined(POLICY), {})
        adapter = llama_cpp.llama_adapter_lora_init(self._model, str(self._path).encode())
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, scales)
        written = self._written()
        llama_cpp.llama_set_adapters_lora(self._context, adapters, 0, scales)
        llama_cpp.llama_adapter_lora_free(adapter)
        completed = [
            Completed(bench.prompts[row // COPIES], tuple(ids), (), ids[-1] in bench.end_ids)
            for row, ids in enumerate(written)
        ]
        score_tokens(bench.policy, completed, 1.0, 1024, *POLICY, with_states=True)
        return completed

    def _written(self) -> list[list[int]]:
        bench = self._bench
        llama_cpp.llama_memory_clear(self._memory, True)
        written: list[list[int]] = []
        for number, prompt in enumerate(bench.prompts):
            first = number * COPIES
            last = len(prompt) - 1
            self._decode([(t, place, first, place == last) for place, t in enumerate(prompt)])
            for row in range(first, first + COPIES):
                if row > first:
                    llama_cpp.llama_memory_seq_cp(self._memory, first, row, -1, -1)
                written.append([self._drawn(last)])
        for step in range(TOKENS - 1):
            going = [row for row, ids in enumerate(written) if ids[-1] not in bench.end_ids]
            if not going:
                break
            lengths = [len(bench.prompts[row // COPIES]) for row in going]
            self._decode(
                [
                    (written[row][-1], length + step, row, True)
                    for row, length in zip(going, lengths, strict=True)
                ]
            )
            for place, row in enumerate(going):
                written[row].append(self._drawn(place))
        return written

    def _drawn(self, place: int) -> int:
        return int(llama_cpp.llama_sampler_sample(self._sampler, self._context, place))

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token, position, row, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = wanted
        assert llama_cpp.llama_decode(self._context, batch) == 0


# --- the page ----------------------------------------------------------------------------------


def measured(bench: Bench, rounds: int, threads: int, work: Path) -> list[str]:
    """Lines of the table for one model; the first round warms up and is not told."""
    ways: dict[str, Callable[[Bench], list[Completed]]] = {
        "ours": ours,
        "growing": growing,
        "llama.cpp": LlamaCpp(bench, threads, work / "adapter.gguf"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tokens: dict[str, int] = {}
    for _ in range(rounds + 1):
        for way, roll_out in ways.items():
            began = time.process_time()
            completed = roll_out(bench)
            seconds[way].append(time.process_time() - began)
            tokens[way] = sum(len(c.ids) for c in completed)
    assert tokens["ours"] == tokens["growing"], "the same luck has to give the same completions"
    per_token = {way: 1e3 * statistics.median(s[1:]) / tokens[way] for way, s in seconds.items()}
    return [
        f"| {bench.model.stem} | {threads} | {way} | {statistics.median(s[1:]):.2f} | "
        f"{min(s[1:]):.2f}-{max(s[1:]):.2f} | {tokens[way]} | {per_token[way]:.2f} | "
        f"{per_token[way] / per_token['ours']:.2f} |"
        for way, s in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure three ways to roll out.")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    random = asked.work / "random-30m.gguf"
    if not random.exists():
        write_sized_model(random, SIZE_30M)
    lines = [
        line
        for model in (BUNDLED, random)
        for line in measured(bench_of(model), asked.rounds, threads, asked.work)
    ]
    head = (
        f"\n{datetime.date.today()}, {platform.machine()} {platform.system()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, torch {torch.__version__}, "
        f"llama-cpp-python {llama_cpp.__version__}; `OMP_NUM_THREADS={threads} python -m "
        f"tests.benchmarks.rollouts --rounds {asked.rounds}`, medians of {asked.rounds} rounds "
        "in turn:\n\n"
        "| model | threads | way | CPU seconds | from-to | tokens | CPU ms a token | to ours |\n"
        "|-|-|-|-|-|-|-|-|\n"
    )
    with PAGE.open("a", encoding="utf-8") as page:
        page.write(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
