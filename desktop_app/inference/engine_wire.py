"""Requests and events as lines: how the app and the engine child write to each other.

One JSON object a line, ASCII only, so that no encoding, no line separator inside a text and
no lone surrogate can break a line. What the requests and events mean stands in ``engine``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from desktop_app.inference.engine import (
    EngineDied,
    EngineFailure,
    Event,
    Generate,
    Load,
    LoadProgress,
    ModelReady,
    PromptProgress,
    Request,
    RequestDone,
    Stop,
    StreamDone,
    TextDelta,
)

_REQUESTS: Final[Mapping[str, Any]] = {cls.kind: cls for cls in (Load, Generate, Stop)}
_EVENTS: Final[Mapping[str, Any]] = {
    cls.kind: cls
    for cls in (
        LoadProgress, ModelReady, PromptProgress, TextDelta, StreamDone, RequestDone,
        EngineFailure, EngineDied,
    )
}  # fmt: skip

# ``vars`` instead of ``asdict``: a line is written for every token.
_ENCODER: Final = json.JSONEncoder(default=vars, separators=(",", ":"))


def encode(item: Request | Event) -> str:
    """One line of JSON, without the newline."""
    return _ENCODER.encode({"kind": item.kind, **vars(item)})


def decode_request(line: str) -> Request:
    """Read a request; texts that came from people are made valid Unicode without NUL.

    Raises:
        ValueError: the line is no request.
    """
    request: Request = _decode(line, _REQUESTS)
    if isinstance(request, Generate):
        messages = tuple(replace(m, content=clean_text(m.content)) for m in request.messages)
        stop = tuple(clean_text(text) for text in request.sampling.stop)
        return replace(request, messages=messages, sampling=replace(request.sampling, stop=stop))
    return request


def decode_event(line: str) -> Event:
    """Read an event.

    Raises:
        ValueError: the line is no event; a child that dies may leave half a line.
    """
    event: Event = _decode(line, _EVENTS)
    return event


def clean_text(text: str) -> str:
    """Valid Unicode without NUL: halves of a surrogate pair are joined or replaced."""
    if text.isascii() and "\0" not in text:
        return text
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "\ufffd")


# --- reading dataclasses back ----------------------------------------------------------------


def _decode(line: str, kinds: Mapping[str, Any]) -> Any:
    try:
        raw: dict[str, Any] = json.loads(line)
        cls = kinds[raw.pop("kind")]
        return _reader(cls)(raw)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a line of ours: {line[:80]!r}") from error


@cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """A function that turns JSON into a value of this type, or raises ValueError."""
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        readers = {f.name: _reader(hints[f.name]) for f in fields(hint)}
        return lambda raw: hint(**{name: readers[name](value) for name, value in raw.items()})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:  # X | None is the only union that travels
        inner = _reader(next(a for a in arguments if a is not NoneType))
        return lambda raw: None if raw is None else inner(raw)
    if origin is tuple:  # tuple[X, ...]
        item = _reader(arguments[0])
        return lambda raw: tuple(item(value) for value in raw)
    if origin is Literal:
        return _checked(lambda raw: raw in arguments)
    if hint is float:
        return _checked(lambda raw: isinstance(raw, int | float) and not isinstance(raw, bool))
    if hint is int:
        return _checked(lambda raw: isinstance(raw, int) and not isinstance(raw, bool))
    expected = dict if origin is not None else hint  # Mapping[str, Any] is the one left
    return _checked(lambda raw: isinstance(raw, expected))


def _checked(is_right: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def read(raw: Any) -> Any:
        if not is_right(raw):
            raise ValueError(f"unexpected value {raw!r:.60}")
        return raw

    return read
