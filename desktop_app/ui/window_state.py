"""How the window was left: its place, what was open, and what was begun to be written."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from finetune.contract.manifest import write_whole

log = logging.getLogger(__name__)
FILE_NAME: Final = "window.json"


@dataclass(frozen=True)
class WindowState:
    geometry: str = ""
    """What ``QWidget.saveGeometry`` gave, in base64."""
    sidebar_open: bool = True
    panel_open: bool = False
    sizes: list[int] = field(default_factory=list)
    """Widths of side bar, centre and panel."""
    drafts: dict[str, str] = field(default_factory=dict)
    """Messages not sent, by conversation."""
    corrections: dict[str, dict[str, str]] = field(default_factory=dict)
    """Corrections and edits not saved, by conversation and message."""


def load_window_state(folder: Path) -> WindowState:
    """Read it; anything odd costs the state, never the start."""
    try:
        raw = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        state = WindowState(
            str(raw["geometry"]),
            bool(raw["sidebar_open"]),
            bool(raw["panel_open"]),
            [int(size) for size in raw["sizes"]],
            {str(key): str(text) for key, text in raw["drafts"].items()},
            {
                str(key): {str(message): str(text) for message, text in texts.items()}
                for key, texts in raw.get("corrections", {}).items()
            },
        )
    except FileNotFoundError:
        return WindowState()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.info("The state of the window could not be read.")
        return WindowState()
    return state


def save_window_state(folder: Path, state: WindowState) -> None:
    """Write it whole; a full disk must not keep the window from closing."""
    try:
        text = json.dumps(asdict(state), ensure_ascii=False)
        write_whole(folder / FILE_NAME, text.encode("utf-8"))
    except OSError:
        log.info("The state of the window could not be written.")
