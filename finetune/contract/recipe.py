"""Every hyperparameter of a run, each with its reason.

A recipe travels as ``recipe.json`` in the run folder and beside the finished model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Final, Literal, get_type_hints

from finetune.contract.errors import InputError

Quantization = Literal["BASE", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]
"""Of the merged model; BASE keeps each tensor in the type it has in the base."""

_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "seed": (0, math.inf),
    "max_tokens": (64, math.inf),
    "min_demonstrations": (0, math.inf),
    "min_preferences": (0, math.inf),
    "value_warmup_steps": (0, math.inf),
    "missing_end_score": (-math.inf, math.inf),
    "temperature": (0.05, 10.0),
    "weight_beta": (1e-3, math.inf),
    "kl_target": (1e-6, math.inf),
    "max_grad_norm": (1e-6, math.inf),
    "warmup_fraction": (0.0, 1.0),
    "replay_fraction": (0.0, 10.0),
    "held_out_fraction": (0.0, 0.5),
    "gamma": (0.0, 1.0),
    "lam": (0.0, 1.0),
    "min_accuracy": (0.0, 1.0),
    "min_ended": (0.0, 1.0),
}
"""What a setting may be where it is not "at least 1" (whole numbers) or "at least 0"."""


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters on every linear layer of the trunk (Hu et al. 2021)."""

    rank: int = 16
    """8 to 16 hold what a few hundred signals can teach."""
    alpha: float = 32.0
    """Update = alpha / rank * B A; twice the rank is the common choice."""


@dataclass(frozen=True)
class SftRecipe:
    """Supervised fine-tuning on liked, preferred and corrected completions."""

    lora: LoraRecipe = field(default_factory=LoraRecipe)
    learning_rate: float = 1e-3
    """About ten times that of full fine-tuning, as LoRA wants. For 256 columns, as all rates here:
    the trainer lowers them for wider models by the square root."""
    epochs: int = 3
    """At most: held-out loss stops it earlier."""
    batch_size: int = 8
    warmup_fraction: float = 0.1
    max_grad_norm: float = 1.0
    replay_fraction: float = 0.25
    """Share of the base's own completions mixed in, so that manners are not forgotten."""


@dataclass(frozen=True)
class RewardRecipe:
    """A reward model from pairs and thumbs (Bradley-Terry; Ouyang et al. 2022, eq. 1)."""

    lora: LoraRecipe = field(default_factory=lambda: LoraRecipe(rank=8, alpha=16.0))
    learning_rate: float = 3e-3
    """Measured on sixty signals: 0.80 of held-out pairs right; 0.73 with a third of it."""
    epochs: int = 4
    batch_size: int = 8
    heads: int = 5
    """Bootstrap heads; the spread between them says where the score is a guess."""
    rating_weight: float = 0.5
    """A thumb says less than a choice between two."""
    center_coef: float = 0.01
    """Keeps scores near zero, so that they stay comparable."""
    margin: float = 0.3
    """By which the best of a ranking of many has to lie above the worst; neighbours need none."""
    length_residual: Literal["where_it_holds", "never"] = "never"
    """Take out of the score what length alone explains (Singhal et al. 2023), never, or where the
    score then agrees with more held-out choices. A dozen held-out choices decide that too badly:
    a person who wanted it short got answers 2 % shorter instead of 10 % and more."""
    warmup_fraction: float = 0.1
    max_grad_norm: float = 1.0
    min_accuracy: float = 0.5
    """On held-out pairs, where there are six or more: below it the model misreads this person, and
    PPO is skipped."""


@dataclass(frozen=True)
class PpoRecipe:
    """Practice against the reward model: PPO with GAE, clipping and a KL penalty to the SFT model
    (Schulman et al. 2017), or one of two simpler ways within the same KL budget."""

    method: Literal["ppo", "raft", "rwr"] = "ppo"
    """``raft`` learns the best of each prompt's samples (Dong et al. 2023), ``rwr`` all of them
    weighted by exp(reward / weight_beta) (Peters & Schaal 2007)."""
    weight_beta: float = 0.5
    """Of ``rwr``: towards 0 only the best sample counts, towards infinity all count alike."""
    weighted_completions: int = 4
    """Samples of a prompt that ``raft`` and ``rwr`` weigh against each other."""
    lora: LoraRecipe = field(default_factory=lambda: LoraRecipe(rank=8, alpha=16.0))
    steps: int = 30
    """Rollout batches at most; the KL budget ends it earlier."""
    prompts_per_step: int = 16
    completions_per_prompt: int = 2
    """Two keep the baseline honest on the few prompts one person has."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    """One: the policy that is sampled is the policy that is scored."""
    learning_rate: float = 6e-4
    """Measured with sixty signals: 30 steps at this rate win 0.84 of unseen comparisons by the
    person's hidden taste, 40 steps at half of it 0.81."""
    value_learning_rate: float = 3e-3
    epochs: int = 2
    minibatches: int = 2
    epoch_kl: float = 0.05
    """Nats a token between old and new policy; beyond 1.5 times it the epoch is broken off."""
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    """A completion is short: its last token counts as much as its first."""
    lam: float = 0.95
    kl_coef: float = 0.05
    """Price of one nat away from the SFT model. Lower: learns faster, forgets its manners
    sooner."""
    kl_target: float = 3.0
    """Nats per completion that the adaptive coefficient steers to (Ziegler et al. 2019)."""
    kl_horizon: int = 8
    """Steps over which the coefficient may change by a fifth of its value."""
    kl_budget: float = 6.0
    """The run stops when a batch lies further than this from the SFT model."""
    ptx_coef: float = 0.1
    """Weight of the SFT loss mixed in (PPO-ptx)."""
    score_uncertainty: float = 1.0
    """The score is the heads' mean less this many times their variance (Coste et al. 2023)."""
    missing_end_score: float = -2.0
    """Score of a completion that did not end: it replaces the reward model's."""
    min_ended: float = 0.5
    """Of samples of the reference: where fewer say something and end within ``max_new_tokens``,
    most scores would be the one above and tell nothing, and PPO is skipped."""
    value_warmup_steps: int = 2
    """Rollout batches on which only the value head learns."""
    max_grad_norm: float = 1.0

    @property
    def copies(self) -> int:
        """Completions sampled for each prompt."""
        return self.completions_per_prompt if self.method == "ppo" else self.weighted_completions


@dataclass(frozen=True)
class EvaluationRecipe:
    """How the result is measured before it may be offered."""

    held_out_fraction: float = 0.2
    """Of the feedback, by whole conversations."""
    prompts: int = 24
    """Held-out prompts on which old and new model are sampled."""
    max_new_tokens: int = 96
    max_loss_ratio: float = 1.3
    """Held-out loss against the base's: above it the manners are gone, and it is refused."""
    min_distinct_ratio: float = 0.75
    """Distinct-2 of samples against the base's: below it the model repeats itself."""


@dataclass(frozen=True)
class Recipe:
    """One run. Stages without enough feedback are skipped, with a note that says so."""

    stages: tuple[Literal["sft", "reward", "ppo"], ...] = ("sft", "reward", "ppo")
    seed: int = 1
    max_tokens: int = 1024
    """Longest example; a longer conversation loses its oldest turns."""
    quantization: Quantization = "Q8_0"
    """Of the merged model; the adapter stays exact."""
    min_demonstrations: int = 4
    """Liked or corrected completions below which SFT would only learn them by heart."""
    min_preferences: int = 12
    """Pairs and thumbs below which a reward model is a coin toss."""
    checkpoint_every: int = 10
    """Steps between checkpoints within a stage."""
    sft: SftRecipe = field(default_factory=SftRecipe)
    reward: RewardRecipe = field(default_factory=RewardRecipe)
    ppo: PpoRecipe = field(default_factory=PpoRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)


def to_json(recipe: Recipe) -> str:
    """The recipe as indented JSON text."""
    return json.dumps(asdict(recipe), indent=2) + "\n"


def from_json(text: str) -> Recipe:
    """Read a recipe; what is not named keeps its default.

    Raises:
        InputError: not JSON, an unknown name, or a value of the wrong type.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"The recipe is not JSON: {error.msg} in line {error.lineno}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The recipe is not JSON that can be read: {error}.") from error
    recipe = _build(Recipe, raw, "recipe")
    assert isinstance(recipe, Recipe)
    return recipe


def _build(cls: type[Any], raw: object, where: str) -> object:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where} must be a JSON object, not {raw!r:.40}.")
    hints = get_type_hints(cls)
    unknown = set(raw) - {f.name for f in fields(cls)}
    if unknown:
        raise InputError(f"{where} has no setting {sorted(unknown)[0]!r}.")
    return cls(**{k: _value(hints[k], v, f"{where}.{k}") for k, v in raw.items()})


def _value(hint: Any, value: object, where: str) -> object:
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(_within_limits(float(value), 0.0, where))
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return int(_within_limits(value, 1, where))
    choices = getattr(hint, "__args__", ())
    if value in choices:
        return value
    if isinstance(value, list) and choices:  # tuple[Literal[...], ...]
        allowed = getattr(choices[0], "__args__", ())
        if all(item in allowed for item in value):
            return tuple(value)
    raise InputError(f"{where} cannot be {value!r:.60}.")


def _within_limits(value: float, least: float, where: str) -> float:
    low, high = _LIMITS.get(where.rsplit(".", 1)[-1], (least, math.inf))
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
        raise InputError(f"{where} cannot be {value:g}: it must be {bounds}.")
    return value
