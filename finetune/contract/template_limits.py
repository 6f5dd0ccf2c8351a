"""A Jinja environment in which a chat template can neither run long nor grow large nor escape.

A chat template is a program from the internet that travels inside a model file. Jinja's sandbox
keeps it from Python's insides; it does not keep it from loops without end or from texts of a
gigabyte. Here every line of the template counts as a step, every text that it makes as work, and
what has no place in a chat template (padding to a width, other filters than the usual ones) does
not exist.

What a template may use up grows with the conversation it renders: see ``Budget``.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

LONGEST_TEMPLATE: Final = 100_000
"""Characters. The longest one in use has some 20,000."""
LONGEST_LITERAL: Final = 200
"""Items of a list that is written out: each step may make one."""
STEPS: Final = 100_000
STEPS_PER_MESSAGE: Final = 1_000
WORK: Final = 4 << 20
WORK_PER_CHARACTER: Final = 50
"""Characters written while rendering, for each one of the conversation."""
SECONDS: Final = 1.5
"""For what neither steps nor work can count. A usual template takes a millisecond."""
LARGEST_NUMBER: Final = 4_096
"""Bits."""
WIDEST: Final = 1_000
"""Characters that a number inside a format may pad to."""

_FILTERS: Final = frozenset({
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr",
    "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper",
})  # fmt: skip
_ADDING_NOTHING: Final = frozenset({
    "abs", "count", "d", "default", "first", "float", "int", "last", "length", "map", "max", "min",
    "reject", "rejectattr", "round", "safe", "select", "selectattr", "sum",
})  # fmt: skip
"""What they give is no longer than a number, or a part of what they are given."""
_PADDING: Final = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_WIDE: Final = re.compile(r"\d{4,}|\*|[{:][^}]*\{")
"""In a format: a number above 999, or a width that is an argument."""


class TemplateLimitError(jinja2.exceptions.TemplateRuntimeError):
    """A template used up more than it may, or asked for what does not exist here."""


class Budget:
    """What one rendering may still use up."""

    def __init__(self, messages: int, characters: int) -> None:
        self._steps = STEPS + STEPS_PER_MESSAGE * messages
        self._work = WORK + WORK_PER_CHARACTER * characters
        self._until = time.monotonic() + SECONDS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TemplateLimitError("it takes too many steps")
        if self._steps % 64 == 0 and time.monotonic() > self._until:
            raise TemplateLimitError("it takes too long")

    def work(self, characters: int) -> None:
        self._work -= characters
        if self._work < 0:
            raise TemplateLimitError("it writes too much")


PER_ITEM: Final = 16
"""An item of a list, in characters."""

_budget: ContextVar[Budget | None] = ContextVar("_budget", default=None)


def _spend(characters: int) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.work(characters)


@contextmanager
def limited(messages: int, characters: int) -> Iterator[None]:
    """Inside the block, templates of a ``LimitedEnvironment`` render within a budget.

    Raises:
        TemplateLimitError: from the block, once the budget is used up.
    """
    budget = Budget(messages, characters)
    token = _budget.set(budget)
    before = sys.gettrace()

    def in_template(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        if event == "line":
            budget.step()
        return in_template

    def on_call(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        return in_template if frame.f_code.co_filename == "<template>" else None

    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)
        _budget.reset(token)


class _CodeGenerator(jinja2.compiler.CodeGenerator):
    """Writes ``a ~ b`` so that the environment sees it, and no long lists."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")

    def visit_List(self, node: jinja2.nodes.List, frame: jinja2.compiler.Frame) -> None:
        self._refuse_long(node.items)
        super().visit_List(node, frame)

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: jinja2.compiler.Frame) -> None:
        self._refuse_long(node.items)
        super().visit_Tuple(node, frame)

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: jinja2.compiler.Frame) -> None:
        self._refuse_long(node.items)
        super().visit_Dict(node, frame)

    def _refuse_long(self, items: Sequence[object]) -> None:
        if len(items) > LONGEST_LITERAL:
            raise TemplateLimitError("it holds too long a list")


class LimitedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox with every way to make a long text or a large number counted."""

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, **options)
        for name in set(self.filters) - _FILTERS:
            del self.filters[name]
        for name in _FILTERS - _ADDING_NOTHING:
            self.filters[name] = _weighed(self.filters[name])
        for name in ("lipsum", "cycler"):
            del self.globals[name]

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join texts; their lengths are known before anything is copied."""
        texts = list(parts)
        _spend(len(texts) + sum(map(len, texts)))
        return "".join(texts)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits, other = left.bit_length(), right.bit_length()
            if (bits + other if operator == "*" else bits * max(right, 0)) > LARGEST_NUMBER:
                raise TemplateLimitError("it computes with too large numbers")
        elif operator == "*":
            sized, times = (left, right) if hasattr(left, "__len__") else (right, left)
            if hasattr(sized, "__len__") and isinstance(times, int):
                _spend(len(sized) * max(times, 0))
        elif operator == "%" and isinstance(left, str):
            if _WIDE.search(left):
                raise TemplateLimitError("it pads a text too wide")
            _spend(len(left) + _length(right))
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _spend(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        found = super().getitem(obj, argument)
        if isinstance(argument, slice):
            _spend(_length(found))
        return found

    def call(
        __self,
        __context: jinja2.runtime.Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        name = getattr(__obj, "__name__", "")
        plain = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(plain, "__self__", None)
        if __obj is jinja2.sandbox.safe_range:
            result = super().call(__context, __obj, *args, **kwargs)
            _spend(PER_ITEM * len(result))
            return result
        if isinstance(owner, str | bytes):
            if name in _PADDING and any(isinstance(a, int) and a > WIDEST for a in args):
                raise TemplateLimitError("it pads a text too wide")
            if name in ("format", "format_map") and _WIDE.search(str(owner)):
                raise TemplateLimitError("it pads a text too wide")
            _spend(_weight(name, str(owner), args))
        return super().call(__context, __obj, *args, **kwargs)


def _weight(name: str, text: str, args: tuple[Any, ...]) -> int:
    """At most how long the result of a text's method is."""
    if name == "replace" and len(args) >= 2:
        old, new = str(args[0]), str(args[1])
        return len(text) + (text.count(old) if old else len(text) + 1) * len(new)
    if name == "join" and args and isinstance(args[0], list | tuple | str):
        return _length(args[0]) + len(text) * len(args[0])
    if name in ("translate", "format", "format_map"):
        return 2 * len(text) + sum(_length(a) for a in args)
    return len(text)


def _length(value: Any) -> int:
    """Characters of a value's text, roughly and quickly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(PER_ITEM + (len(v) if isinstance(v, str) else 0) for v in value)
    if isinstance(value, dict):
        return sum(PER_ITEM + len(str(k)) + _length(v) for k, v in value.items())
    return PER_ITEM


def _weighed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result may be much longer than what it is given."""

    @jinja2.pass_eval_context
    def heavy(context: jinja2.nodes.EvalContext, value: Any, *args: Any, **named: Any) -> Any:
        given = [*args, *named.values()]
        if any(isinstance(a, int) and not isinstance(a, bool) and a > WIDEST for a in given):
            raise TemplateLimitError("it pads a text too wide")
        if not isinstance(value, str | list | tuple | dict):
            value = list(value) if hasattr(value, "__iter__") else value
        longest = max((_length(a) for a in given if isinstance(a, str)), default=4)
        pieces = len(value) + 1 if hasattr(value, "__len__") else 1
        _spend(_length(value) + pieces * max(longest, 1))
        passed = (context, value) if getattr(plain, "jinja_pass_arg", None) else (value,)
        return plain(*passed, *args, **named)

    return heavy
