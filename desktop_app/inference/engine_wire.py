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
    CancelLoad,
    ContextOverflow,
    EngineDied,
    EngineFailure,
    Event,
    Forget,
    Generate,
    Load,
    LoadProgress,
    ModelReady,
    PromptProgress,
    Request,
    RequestDone,
    SamplingParams,
    Score,
    Scored,
    Stop,
    StreamDone,
    TextDelta,
)

_REQUESTS: Final[Mapping[str, Any]] = {
    cls.kind: cls for cls in (Load, CancelLoad, Generate, Score, Stop, Forget)
}
_EVENTS: Final[Mapping[str, Any]] = {
    cls.kind: cls
    for cls in (
        LoadProgress, ModelReady, PromptProgress, TextDelta, StreamDone, RequestDone,
        ContextOverflow, Scored, EngineFailure, EngineDied,
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
        return replace(request, messages=messages, sampling=_clean_sampling(request.sampling))
    if isinstance(request, Score):
        messages = tuple(replace(m, content=clean_text(m.content)) for m in request.messages)
        return replace(
            request, messages=messages, completions=tuple(map(clean_text, request.completions))
        )
    return request


def decode_event(line: str) -> Event:
    """Read an event.

    Raises:
        ValueError: the line is no event; a child that dies may leave half a line.
    """
    event: Event = _decode(line, _EVENTS)
    return event


def _clean_sampling(sampling: SamplingParams) -> SamplingParams:
    schema = sampling.json_schema
    return replace(
        sampling,
        stop=tuple(clean_text(text) for text in sampling.stop),
        dry_breakers=tuple(clean_text(text) for text in sampling.dry_breakers),
        logit_bias=tuple(
            (clean_text(token) if isinstance(token, str) else token, bias)
            for token, bias in sampling.logit_bias
        ),
        grammar=clean_text(sampling.grammar),
        json_schema=clean_text(schema) if isinstance(schema, str) else schema,
    )


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
    if origin is UnionType:
        return _reader_of_any([_reader(a) for a in arguments if a is not NoneType], arguments)
    if origin is tuple and arguments[-1] is Ellipsis:  # tuple[X, ...]
        item = _reader(arguments[0])
        return lambda raw: tuple(item(value) for value in raw)
    if origin is tuple:  # tuple[X, Y]
        items = [_reader(argument) for argument in arguments]
        return lambda raw: tuple(read(value) for read, value in zip(items, raw, strict=True))
    if origin is Literal:
        return _checked(lambda raw: raw in arguments)
    if hint is float:
        return _checked(lambda raw: isinstance(raw, int | float) and not isinstance(raw, bool))
    if hint is int:
        return _checked(lambda raw: isinstance(raw, int) and not isinstance(raw, bool))
    expected = dict if origin is not None else hint  # Mapping[str, Any] is the one left
    return _checked(lambda raw: isinstance(raw, expected))


def _reader_of_any(
    readers: list[Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> Callable[[Any], Any]:
    """A function that reads the first of several types that fits; None where it is allowed."""
    *earlier, last = readers
    is_optional = NoneType in arguments

    def read(raw: Any) -> Any:
        if raw is None and is_optional:
            return None
        for reader in earlier:
            try:
                return reader(raw)
            except ValueError:
                continue
        return last(raw)

    return read


def _checked(is_right: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def read(raw: Any) -> Any:
        if not is_right(raw):
            raise ValueError(f"unexpected value {raw!r:.60}")
        return raw

    return read
