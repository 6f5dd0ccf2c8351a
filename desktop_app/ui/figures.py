"""Figures of a run or a version in words a person understands.

The trainer names its metrics as the field does; here they get a name, a unit and an order.
What is not in the table is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

Unit = Literal["percent", "times", "nats", "plain"]


@dataclass(frozen=True)
class Figure:
    """One number with its name, ready for the screen."""

    label: str
    value: str
    metric: str


LEAST_PAIRS: Final = 6
"""How often a reward model agrees on fewer unseen choices than this says nothing yet."""
_ON_KNOWN_TEXT: Final = {"loss_ratio": str(QT_TRANSLATE_NOOP("Figures", "Loss on known text"))}
"""Labels by metric where nothing could be held out."""

# Metric names (any of them), unit, label.
_TABLE: Final[Sequence[tuple[Sequence[str], Unit, str]]] = (
    (
        ("reward_accuracy", "accuracy"),
        "percent",
        str(QT_TRANSLATE_NOOP("Figures", "Agrees with your choices")),
    ),
    (
        ("win_rate",),
        "percent",
        str(QT_TRANSLATE_NOOP("Figures", "Nearer to your taste")),
    ),
    (("length_ratio",), "times", str(QT_TRANSLATE_NOOP("Figures", "Length of answers"))),
    (
        ("kl_to_base", "kl"),
        "nats",
        str(QT_TRANSLATE_NOOP("Figures", "Distance from the original model")),
    ),
    (("loss_ratio",), "times", str(QT_TRANSLATE_NOOP("Figures", "Loss on unseen text"))),
    (("distinct_ratio",), "times", str(QT_TRANSLATE_NOOP("Figures", "Variety of words"))),
)


def figures(metrics: Mapping[str, float], most: int = 6) -> list[Figure]:
    """The known ones among ``metrics``, most telling first.

    How often the reward model agrees is told only where the result was measured with it, and
    on more than a few choices.
    """
    pairs = metrics.get("reward_held_out_pairs", LEAST_PAIRS)
    is_agreement_told = "win_rate" in metrics and pairs >= LEAST_PAIRS
    own_labels = _ON_KNOWN_TEXT if _is_on_known_text(metrics) else {}
    found = []
    for names, unit, label in _TABLE:
        name = next((name for name in names if name in metrics), None)
        if name is not None and (name != "reward_accuracy" or is_agreement_told):
            translated = QCoreApplication.translate("Figures", own_labels.get(name, label))
            found.append(Figure(translated, _shown(metrics[name], unit), name))
    return found[:most]


def basis(metrics: Mapping[str, float]) -> str:
    """What the figures compare with; and, where so, that they were not measured on anything new.

    A version's figures compare it with the model it was trained on, whichever is in use.
    """
    if _is_on_known_text(metrics):
        return QCoreApplication.translate(
            "Figures", "Compared with the original model, on prompts this version practised with"
        )
    return QCoreApplication.translate("Figures", "Compared with the original model")


def _is_on_known_text(metrics: Mapping[str, float]) -> bool:
    """Whether nothing was held out; versions of earlier times do not say."""
    return metrics.get("held_out_prompts") == 0


def _shown(value: float, unit: Unit) -> str:
    if unit == "percent":
        return f"{value * 100:.0f} %"
    if unit == "times":
        return f"×{value:.2f}"
    if unit == "nats":
        value = max(value, 0.0)  # the estimate from samples may be a little below, a distance not
        return QCoreApplication.translate("Figures", "{0} nats").format(f"{value:.2f}")
    return f"{value:.2f}"
