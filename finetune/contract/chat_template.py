"""From messages to token ids: the one way a prompt is made, for chatting and for training.

The Jinja template that travels inside the GGUF is rendered with placeholders where the
contents go and is split there, so that control text (written by the template) and content
(written by a person or a model) stay apart. ``encode`` then turns control text's special
tokens into their ids and tokenises everything else with special tokens off: what somebody
types can never become ``<|im_end|>``.

For ordinary text the ids are those of tokenising the whole rendered string, because
neighbouring plain pieces are joined into one run before they are tokenised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Literal, NoReturn, Protocol

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from finetune.contract.errors import InputError
from finetune.contract.template_limits import (
    LONGEST_TEMPLATE,
    LimitedEnvironment,
    TemplateLimitError,
    limited,
)

Role = Literal["system", "user", "assistant"]
ROLES: Final[tuple[Role, ...]] = ("system", "user", "assistant")

CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Our own template: the bundled model carries it, and a file without a template gets it."""

_DATE: Final = datetime(2026, 1, 1)
_DATE_FORMAT: Final = re.compile(r"(?:[^%]|%-?[A-Za-z%]){0,100}")


@dataclass(frozen=True)
class Message:
    """One turn's half: who spoke, and the raw text."""

    role: Role
    content: str


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered prompt. ``is_control`` is True where the template wrote it."""

    text: str
    is_control: bool


@dataclass(frozen=True)
class TemplateTokens:
    """The token texts a template may mention by name; empty where the model has none."""

    bos: str = ""
    eos: str = ""


class Vocabulary(Protocol):
    """What ``encode`` needs to know of a model's tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text of every control or user-defined token -> its id."""
        ...

    @property
    def bos_id(self) -> int | None:
        """The id to put first, or None where this model wants no such token."""
        ...

    @property
    def end_of_turn_id(self) -> int:
        """The token that ends an assistant's turn."""
        ...

    def tokenize(self, text: str, *, continues: bool) -> list[int]:
        """Token ids of plain text, special tokens off.

        ``continues`` is True where the text goes on after other text, so that a
        SentencePiece vocabulary puts no space before it.
        """
        ...


@dataclass(frozen=True)
class TrainingExample:
    """Token ids and, of the same length, True where the model shall learn."""

    ids: tuple[int, ...]
    completion_mask: tuple[bool, ...]


def template_id(template: str) -> str:
    """The SHA-256 of a template's text: records name the template they were made with."""
    return sha256(template.encode("utf-8")).hexdigest()


def render_prompt(
    messages: Sequence[Message],
    template: str = CHATML,
    tokens: TemplateTokens = TemplateTokens(),
    *,
    add_generation_prompt: bool = True,
) -> list[Segment]:
    """Render ``messages`` and keep control text and contents apart.

    The joined texts equal the template's own rendering of the real contents; this is
    checked for each prompt, so a template that rewrites contents in a way we do not know
    is refused and never silently misread.

    Raises:
        InputError: the template is broken, or it rewrites contents.
    """
    if not messages:
        raise InputError("The conversation is empty; write a message first.")
    try:
        return _segments(messages, template, tokens, add_generation_prompt)
    except jinja2.exceptions.TemplateError as error:
        # Gemma's and Mistral's templates refuse a system turn: it then leads the first
        # user turn, which is what their makers recommend.
        folded = _fold_system_turn(messages)
        if folded is None or isinstance(error, TemplateLimitError):
            raise _template_refusal(error) from error
        try:
            return _segments(folded, template, tokens, add_generation_prompt)
        except jinja2.exceptions.TemplateError as second:
            raise _template_refusal(second) from second


def encode(
    segments: Sequence[Segment], vocabulary: Vocabulary, *, beginning: str = ""
) -> list[int]:
    """Token ids of a rendered prompt, beginning with at most one BOS token.

    ``beginning`` is the start of the completion, where one that was cut off goes on.
    """
    special = _markers(vocabulary)
    pattern = _pattern(tuple(special))
    forgeable = _forgeable(segments, vocabulary)
    ids: list[int] = []
    run = ""

    def close_run() -> None:
        nonlocal run
        if run:
            ids.extend(_tokenize_run(run, vocabulary, forgeable))
            run = ""

    for segment in segments:
        if not segment.is_control:
            run += segment.text
            continue
        for piece in _cut_at(segment.text, pattern):
            if piece in special:
                close_run()
                ids.append(special[piece])
            else:
                run += piece
    close_run()
    if vocabulary.bos_id is not None and ids[:1] != [vocabulary.bos_id]:
        ids.insert(0, vocabulary.bos_id)
    if beginning:
        ids.extend(_tokenize_run(beginning, vocabulary, forgeable, continues=True))
    return ids


def training_example(
    prompt: Sequence[Segment], completion: str, vocabulary: Vocabulary
) -> TrainingExample:
    """The prompt as it was sent, the completion and the end of turn; learn the last two."""
    prompt_ids = encode(prompt, vocabulary)
    learned = _tokenize_run(completion, vocabulary, _forgeable(prompt, vocabulary), continues=True)
    learned.append(vocabulary.end_of_turn_id)
    return TrainingExample(
        ids=(*prompt_ids, *learned),
        completion_mask=(False,) * len(prompt_ids) + (True,) * len(learned),
    )


# --- rendering -----------------------------------------------------------------------------


def _segments(
    messages: Sequence[Message],
    template: str,
    tokens: TemplateTokens,
    add_generation_prompt: bool,
) -> list[Segment]:
    marks = _placeholders(messages)
    shadow = [Message(m.role, mark) for m, mark in zip(messages, marks, strict=True)]
    shape = _render(shadow, template, tokens, add_generation_prompt)
    real = _render(messages, template, tokens, add_generation_prompt)
    contents = {mark: m.content for mark, m in zip(marks, messages, strict=True) if mark}

    segments: list[Segment] = []
    position = 0
    pieces = list(_cut_at(shape, _pattern(tuple(contents))))
    for index, piece in enumerate(pieces):
        if piece not in contents:
            text, is_control = piece, True
        else:
            following = pieces[index + 1] if index + 1 < len(pieces) else ""
            following = "" if following in contents else following
            text = _content_at(real, position, contents[piece], following)
            is_control = False
        if not real.startswith(text, position):
            raise InputError(
                "This model's chat template rewrites messages in a way Attune does not "
                "know, so it cannot be used for chatting."
            )
        position += len(text)
        if text:
            segments.append(Segment(text, is_control))
    if position != len(real):
        raise InputError(
            "This model's chat template depends on what the messages say in a way Attune "
            "does not know, so it cannot be used for chatting."
        )
    return segments


def _content_at(rendered: str, position: int, content: str, following: str) -> str:
    """The form of ``content`` the template wrote at ``position``.

    Templates commonly trim contents, and drop the reasoning of earlier turns.
    """
    shown = content.rsplit("</think>", 1)[-1]
    for candidate in (content, content.strip(), shown, shown.lstrip("\n"), shown.strip()):
        if rendered.startswith(candidate + following, position):
            return candidate
    return content


def _placeholders(messages: Sequence[Message]) -> list[str]:
    """One private-use text for each message, found in none of the contents.

    Empty contents get an empty one: templates ask whether there is any.
    """
    everything = "".join(m.content for m in messages)
    nonce = 0
    while f"\ue000{nonce}." in everything:
        nonce += 1
    return [f"\ue000{nonce}.{index}\ue001" if m.content else "" for index, m in enumerate(messages)]


def _fold_system_turn(messages: Sequence[Message]) -> list[Message] | None:
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return None
    first = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
    return [first, *messages[2:]]


def _render(
    messages: Sequence[Message],
    template: str,
    tokens: TemplateTokens,
    add_generation_prompt: bool,
) -> str:
    names = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": add_generation_prompt,
        "bos_token": tokens.bos,
        "eos_token": tokens.eos,
        "tools": None,
    }
    try:
        compiled = _compiled(template)
        characters = sum(len(m.content) for m in messages)
        # Counting steps costs as much as rendering: not for the template we wrote ourselves.
        with nullcontext() if template == CHATML else limited(len(messages), characters):
            try:
                return compiled.render(names)
            except jinja2.UndefinedError as error:
                if "'strftime_now' is undefined" not in str(error):
                    raise
                return compiled.render(names, strftime_now=_strftime_now)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        # A template is a program from the internet: its errors are not our bugs.
        raise jinja2.exceptions.TemplateRuntimeError(str(error)) from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise jinja2.exceptions.TemplateRuntimeError("it is too large") from error


def _strftime_now(form: str) -> str:
    """The day that templates are told which insist on one; always the same day.

    Today's would change every prompt's beginning each day, spoil the prefix cache, and let a
    training that is resumed tomorrow read other tokens. Templates that ask whether there is a date
    take their own, as old as this one.
    """
    if not _DATE_FORMAT.fullmatch(form):  # a width, say: "%999999999d"
        raise ValueError(f"no such form of a date: {form[:40]!r}")
    return _DATE.strftime(form)


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks what training learns in some templates; it writes nothing."""

    tags = {"generation"}  # noqa: RUF012 (so is it declared in jinja2)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > LONGEST_TEMPLATE:
        raise TemplateLimitError("it is too long")
    environment = LimitedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _GenerationTag],
    )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.exceptions.TemplateError(message)

    extra: dict[str, Any] = {"raise_exception": raise_exception}
    environment.globals.update(extra)
    return environment.from_string(template)


def _template_refusal(error: jinja2.exceptions.TemplateError) -> InputError:
    reason = [*str(error.message or "").splitlines(), type(error).__name__][0][:200]
    return InputError(f"This model's chat template could not be used: {reason}")


# --- cutting -------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str] | None:
    longest_first = sorted((re.escape(t) for t in texts if t), key=len, reverse=True)
    return re.compile(f"({'|'.join(longest_first)})") if longest_first else None


def _cut_at(text: str, pattern: re.Pattern[str] | None) -> Iterator[str]:
    """The non-empty pieces of ``text``, with the matches of ``pattern`` on their own."""
    if pattern is None:
        if text:
            yield text
        return
    yield from (piece for piece in pattern.split(text) if piece)


def _forgeable(segments: Sequence[Segment], vocabulary: Vocabulary) -> list[str]:
    """The special tokens that typed text must not turn into.

    llama.cpp leaves control tokens alone in plain text, but a GGUF may declare its turn
    markers "user defined", and those it finds everywhere. They are known by standing in the
    prompt, by ending things, or by their looks: a template may have a marker for a system
    turn and this conversation no such turn.
    """
    control = "\0".join(segment.text for segment in segments if segment.is_control)
    ends = (vocabulary.bos_id, vocabulary.end_of_turn_id)
    return [
        text
        for text, token in _markers(vocabulary).items()
        if len(text) > 1
        and (text in control or token in ends or (text[:2] == "<|" and text[-2:] == "|>"))
    ]


def _markers(vocabulary: Vocabulary) -> dict[str, int]:
    """The special tokens that mark something.

    Runs of spaces or newlines that a vocabulary declares "user defined" (Gemma's) are
    ordinary text: they are found by tokenising, over the borders of segments as well.
    """
    return {text: token for text, token in vocabulary.special_tokens.items() if text.strip()}


def _tokenize_run(
    run: str, vocabulary: Vocabulary, forgeable: Sequence[str], *, continues: bool = False
) -> list[int]:
    ids: list[int] = []
    for piece in _broken_up(run, forgeable):
        ids.extend(vocabulary.tokenize(piece, continues=continues or bool(ids)))
    return ids


def _broken_up(run: str, forgeable: Sequence[str]) -> Iterator[str]:
    """Cut ``run`` inside each text that could be read as a special token."""
    rest = run
    for piece in _cut_at(run, _pattern(tuple(forgeable))):
        if piece in forgeable:
            before, rest = rest.split(piece, 1)
            yield before + piece[:1]
            rest = piece[1:] + rest
    if rest:
        yield rest
