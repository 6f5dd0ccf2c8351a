"""A language model that is a table: logits of the next token, by the token before it.

With completions of two tokens that is every policy there is, so the optimum of RLHF with a KL
penalty can be written down: pi*(y) = pi_ref(y) exp(r(y) / beta) / Z. The table sits in one
linear layer over one-hot tokens, so that the real LoRA layers, sampler and PPO run on it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from finetune.generate import Completed
from finetune.policy import Policy

VOCABULARY, END, PROMPT = 7, 0, (6,)
NEVER = -30.0
"""The logit of the prompt's token, which no completion contains."""
LENGTH = 2
Sequence = tuple[int, ...]


class _Trunk(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        linear = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        linear.weight = nn.Parameter(table.T.clone())
        self.layers = nn.ModuleList([nn.Sequential(linear)])

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        one_hot = F.one_hot(input_ids, VOCABULARY).float()
        return SimpleNamespace(last_hidden_state=self.layers[0](one_hot))


class _Model(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.model = _Trunk(table)
        self.lm_head = nn.Identity()
        self.config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=VOCABULARY,
            num_hidden_layers=1,
            num_attention_heads=1,
            head_dim=2,
        )


def tabular_policy(table: Tensor) -> Policy:
    """A policy whose logits after token t are row t of ``table``, (V, V)."""
    return Policy(_Model(table).requires_grad_(False))


def sequences() -> list[Sequence]:
    """All completions: an end at once, or two tokens."""
    words = range(VOCABULARY - 1)
    return [(END,), *((a, b) for a in words if a != END for b in words)]


def probabilities(logprobs: Tensor) -> Tensor:
    """Of ``sequences()`` under rows of next-token log-probabilities, (V, V), in float64."""
    rows = logprobs.double().log_softmax(-1)
    each = []
    for ids in sequences():
        before = PROMPT[-1]
        total = rows.new_zeros(())
        for token in ids:
            total = total + rows[before, token]
            before = token
        each.append(total)
    return torch.stack(each).exp()


def table_of(policy: Policy, *roles: str) -> Tensor:
    """The logits after each token with these adapters, (V, V)."""
    with policy.using(*roles), torch.no_grad():
        ids = torch.arange(VOCABULARY)[:, None]
        hidden: Any = policy.model.model(input_ids=ids)
        return policy.logits(hidden.last_hidden_state)[:, 0]


def random_table(seed: int) -> Tensor:
    """Logits of the next token after each token, (V, V)."""
    table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    table[:, PROMPT[0]] = NEVER
    return table


def reward_table(seed: int, missing_end: float) -> dict[Sequence, float]:
    """A known reward of every completion: between -2 and 2 for a word and an end."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(len(sequences()), generator=generator) * 4 - 2
    return {
        ids: value if len(ids) == 2 and ids[1] == END else missing_end
        for ids, value in zip(sequences(), values.tolist(), strict=True)
    }


def optimum(reference: Tensor, rewards: dict[Sequence, float], beta: float) -> Tensor:
    """pi_ref exp(r / beta) / Z over ``sequences()``."""
    weights = reference * torch.tensor([rewards[s] / beta for s in sequences()]).double().exp()
    return weights / weights.sum()


def total_variation(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


def scores_of(rewards: dict[Sequence, float], completed: list[Completed]) -> Tensor:
    return torch.tensor([rewards[c.ids] for c in completed])
