"""The training's curves as one SVG picture: loss while learning, bits a byte on held-out text.

Drawn from the training's own log, over the tokens that were read. Plain text, no library: the
picture stands beside the model's card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

Points = list[tuple[float, float]]

WIDTH, HEIGHT, MARGIN, GAP = 760, 300, 56, 40
SMOOTHED = 120
"""Points of the training's own loss: each the mean of its share of the steps."""
COLOURS = ("#1f6feb", "#d1590b", "#1a7f37", "#8250df", "#bf3989", "#57606a")
SUFFIX = "/bits_per_byte"
NAMES = {
    "chat_en": "public chats en",
    "chat_ko": "public chats ko",
    "chat_own_en": "our replies en",
    "chat_own_ko": "our replies ko",
    "pretrain_en": "pretraining en",
    "pretrain_ko": "pretraining ko",
}


def write_curves(log: Path, path: Path) -> None:
    """Draw ``log`` (JSON lines of the training) into ``path``, whole, beside and then in place."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [(entry["tokens"] / 1e6, entry["loss"]) for entry in entries if "loss" in entry]
    held: dict[str, Points] = {}
    for entry in entries:
        for key, value in entry.items():
            if key.startswith("held_out/") and key.endswith(SUFFIX):
                name = NAMES[key.removeprefix("held_out/").removesuffix(SUFFIX)]
                held.setdefault(name, []).append((entry["tokens"] / 1e6, value))
    most = max(entry["tokens"] for entry in entries) / 1e6
    panels = [
        _panel("training loss, nats a token", {"loss": _means(losses)}, 0, most),
        _panel("held out, bits a byte", held, HEIGHT + GAP, most),
    ]
    height = 2 * HEIGHT + GAP
    picture = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *panels,
            "</svg>",
            "",
        ]
    )
    beside = path.with_name(path.name + ".part")
    beside.write_text(picture, encoding="utf-8")
    os.replace(beside, path)


def _means(points: Points) -> Points:
    """Neighbours in equal shares, each share by its mean."""
    size = max(1, len(points) // SMOOTHED)
    shares = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in s) / len(s), sum(y for _, y in s) / len(s)) for s in shares]


def _panel(title: str, lines: dict[str, Points], top: int, right: float) -> str:
    """One diagram with its axes: x in million tokens, up to ``right``."""
    drawn = {name: points for name, points in sorted(lines.items()) if points}
    ys = [y for points in drawn.values() for _, y in points] or [0.0]
    low, high = min(ys), max(ys)
    span = max(high - low, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = MARGIN + x / right * (WIDTH - 2 * MARGIN)
        return across, top + HEIGHT - MARGIN - (y - low) / span * (HEIGHT - 2 * MARGIN)

    parts = [f'<text x="{MARGIN}" y="{top + 20}" font-weight="bold">{escape(title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share * right, low + share * span)
        value, tokens = low + share * span, share * right
        parts += [
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}"'
            ' stroke="#d0d7de"/>',
            f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>',
            f'<text x="{x:.1f}" y="{top + HEIGHT - MARGIN + 18}" text-anchor="middle">'
            f"{tokens:.1f}M</text>",
        ]
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts += _lines([place(x, y) for x, y in points], colour)
        if len(drawn) > 1:
            across = MARGIN + number * (WIDTH - 2 * MARGIN) / len(drawn)
            parts.append(
                f'<text x="{across:.0f}" y="{top + HEIGHT - 12}" fill="{colour}">'
                f"{escape(name)}</text>"
            )
    return "\n".join(parts)


def _lines(places: Sequence[tuple[float, float]], colour: str) -> list[str]:
    """A polyline, broken where the log begins an earlier count of tokens anew; ends as dots."""
    runs: list[list[tuple[float, float]]] = [[*places[:1]]]
    for before, now in pairwise(places):
        if now[0] < before[0]:
            runs.append([])
        runs[-1].append(now)
    found = []
    for run in runs:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
        found.append(f'<polyline points="{corners}" fill="none" stroke="{colour}"/>')
    x, y = places[-1]
    return [*found, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>']
