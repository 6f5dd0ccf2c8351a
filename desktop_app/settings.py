"""The person's choices, as versioned JSON. A damaged file costs the choices, not the start."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from finetune.contract.manifest import write_whole

log = logging.getLogger(__name__)

FORMAT: Final = 1


@dataclass(frozen=True)
class Settings:
    language: Literal["", "en", "ko"] = ""
    """Empty follows the system."""
    appearance: Literal["system", "light", "dark"] = "system"
    font_scale: float = 1.0
    system_prompt: str = ""
    temperature: float = 0.3
    """Low, because the bundled model is small: at 0.8 half of its answers miss the point."""
    max_tokens: int = 512
    compare_every: int = 0
    """Offer two completions on every n-th turn; 0 never."""


_ALLOWED: Final[dict[str, tuple[Any, ...]]] = {
    "language": ("", "en", "ko"),
    "appearance": ("system", "light", "dark"),
}
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "font_scale": (0.5, 3.0),
    "temperature": (0.0, 2.0),
    "max_tokens": (1, 65_536),
    "compare_every": (0, 1000),
}


def load_settings(path: Path) -> Settings:
    """Read settings; unknown names and impossible values fall back to their defaults."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError):
        log.warning("The settings could not be read; the defaults are used.")
        return Settings()
    if not isinstance(raw, dict):
        return Settings()
    known = {f.name: type(getattr(Settings(), f.name)) for f in fields(Settings)}
    return Settings(**{k: v for k, v in raw.items() if k in known and _is_possible(k, v, known[k])})


def save_settings(path: Path, settings: Settings) -> None:
    """Write settings so that they appear whole."""
    text = json.dumps({"format": FORMAT, **asdict(settings)}, indent=2, ensure_ascii=False)
    write_whole(path, text.encode("utf-8"))


def _is_possible(name: str, value: object, kind: type) -> bool:
    if kind is float and type(value) is int and abs(value) < 1e9:
        value = float(value)
    if type(value) is not kind:
        return False
    if name in _ALLOWED:
        return value in _ALLOWED[name]
    if name in _RANGES and isinstance(value, int | float):
        low, high = _RANGES[name]
        return low <= value <= high
    return True
