"""Which grammar a completion has to follow: GBNF as it was given, or made from a JSON schema.

llama.cpp reads a grammar by recursion, multiplies what is to be repeated, and follows a rule
that begins with itself for ever where empty rules hide that from it. What would end the
process or never end is refused here; mistakes are found by ``sampler``, which hands it over.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from llama_cpp.llama_grammar import json_schema_to_gbnf

from desktop_app.inference.engine import SamplingParams
from finetune.contract.errors import InputError

LONGEST: Final = 200_000
"""Characters of a grammar."""
DEEPEST: Final = 500
"""Brackets inside brackets. llama.cpp's stack lasts for some thousands."""
MOST_REPETITIONS: Final = 400
"""Of a schema's texts and arrays; each becomes a bracket of the grammar."""
_REPETITIONS: Final = ("minItems", "maxItems", "minLength", "maxLength")
# What holds brackets that open nothing: literals, character classes, comments.
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*', re.DOTALL)
_TOKEN: Final = re.compile(
    rf"""(?P<quoted>{_QUOTED.pattern})|(?P<begin>[\w-]+)\s*::=|(?P<name>[\w-]+)"""
    r"""|(?P<repeat>[*?+]|\{\d*(?:,\d*)?\})|(?P<mark>[()|])|(?P<other>!?<[^>\n]*>|\.)"""
)
_COUNTED: Final = re.compile(r"\{(\d*)(?:,(\d*))?\}")


def grammar_of(params: SamplingParams) -> str:
    """The grammar in GBNF; "" for none.

    Raises:
        InputError: there are two, or it is out of bounds, or the schema cannot be used.
    """
    if params.json_schema and params.grammar:
        raise InputError("A completion can follow a grammar or a JSON schema, not both.")
    grammar = _of_schema(params.json_schema) if params.json_schema else params.grammar
    if len(grammar) > LONGEST:
        raise InputError(
            f"The grammar cannot be used: it has {len(grammar):,} characters, and {LONGEST:,} "
            "are allowed."
        )
    depth = _depth(grammar)
    if depth > DEEPEST:
        raise InputError(
            f"The grammar cannot be used: it has {depth:,} brackets inside each other, and "
            f"{DEEPEST:,} are allowed."
        )
    circle = _left_recursion(_rules(grammar))
    if circle:
        raise InputError(f"The grammar cannot be used: the rule {circle!r} begins with itself.")
    return grammar


def _of_schema(schema: str | Mapping[str, Any]) -> str:
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        _check_schema(parsed)
        return str(json_schema_to_gbnf(json.dumps(parsed)))
    except InputError:
        raise
    except RecursionError as error:
        raise InputError("The JSON schema cannot be used: it is too deep.") from error
    except Exception as error:  # a translation of a C++ program: whatever it trips over
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"The JSON schema cannot be used: {reason}.") from error


def _check_schema(schema: Any) -> None:
    if not isinstance(schema, dict | bool):
        raise InputError("The JSON schema cannot be used: it is not a JSON object.")
    for name, value in _entries(schema):
        if name == "$ref" and not str(value).startswith("#"):
            raise InputError(
                f"The JSON schema cannot be used: it refers to {str(value)[:60]!r}, outside itself."
            )
        counts = [value] if name in _REPETITIONS else []
        if name == "pattern" and isinstance(value, str):
            counts = [int(n) for pair in _COUNTED.findall(value) for n in pair if n]
        if any(isinstance(count, int) and count > MOST_REPETITIONS for count in counts):
            raise InputError(
                f"The JSON schema cannot be used: {name} asks for more than "
                f"{MOST_REPETITIONS} repetitions."
            )


def _entries(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value at every depth."""
    if isinstance(schema, dict):
        for name, value in schema.items():
            yield str(name), value
            yield from _entries(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _entries(value)


def _depth(grammar: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[()]", _QUOTED.sub("", grammar)):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    return deepest


# --- rules that begin with themselves --------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    """A piece of a rule: another rule by name, or characters. ``may_be_empty`` by itself."""

    rule: str | None
    may_be_empty: bool


_Rules = dict[str, list[list[_Item]]]
"""Name -> alternatives, each a sequence."""


def _rules(grammar: str) -> _Rules:
    """The rules of a grammar; groups are rules of their own, as in llama.cpp."""
    rules: _Rules = {}
    name, alternatives = "", [[]]  # type: tuple[str, list[list[_Item]]]
    outer: list[tuple[str, list[list[_Item]]]] = []
    for found in _TOKEN.finditer(grammar):
        kind, text = found.lastgroup, found[0]
        if kind == "begin":
            name, alternatives, outer = found["begin"], [[]], []
            rules[name] = alternatives
        elif text == "(":
            outer.append((name, alternatives))
            name, alternatives = f"{name} ({len(rules)}", [[]]
            rules[name] = alternatives
        elif text == ")" and outer:
            group = name
            name, alternatives = outer.pop()
            alternatives[-1].append(_Item(group, may_be_empty=False))
        elif text == "|":
            alternatives.append([])
        elif kind == "name":
            alternatives[-1].append(_Item(text, may_be_empty=False))
        elif kind == "repeat" and alternatives[-1]:
            if text in "*?" or re.match(r"\{0*[,}]", text):
                alternatives[-1][-1] = replace(alternatives[-1][-1], may_be_empty=True)
        elif kind == "other" or (kind == "quoted" and not text.startswith("#")):
            alternatives[-1].append(_Item(None, may_be_empty=text == '""'))
    return rules


def _left_recursion(rules: _Rules) -> str:
    """The name of a rule that can come first in itself; "" where there is none."""
    empty = _that_may_be_empty(rules)
    first: dict[str, set[str]] = {}
    for name, alternatives in rules.items():
        first[name] = set()
        for items in alternatives:
            for item in items:
                if item.rule is not None:
                    first[name].add(item.rule)
                if not (item.may_be_empty or item.rule in empty):
                    break
    try:
        TopologicalSorter(first).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return next(name for name in sorted(circle, key=len)).split(" ")[0]
    return ""


def _that_may_be_empty(rules: _Rules) -> set[str]:
    users: defaultdict[str, set[str]] = defaultdict(set)
    for name, alternatives in rules.items():
        for items in alternatives:
            for item in items:
                if item.rule is not None:
                    users[item.rule].add(name)
    empty: set[str] = set()
    to_look_at = list(rules)
    while to_look_at:
        name = to_look_at.pop()
        if name not in empty and any(
            all(item.may_be_empty or item.rule in empty for item in items) for items in rules[name]
        ):
            empty.add(name)
            to_look_at.extend(users[name])
    return empty
