"""Chat templates that mean harm: none runs long, none grows large, none gets out.

Each is rendered in this very process, as the engine child does it, and must be refused with one
sentence or render something harmless. Time is CPU time, so that a busy machine fails nobody.
"""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from finetune.contract.chat_template import CHATML, Message, render_prompt
from finetune.contract.errors import InputError

SAID = [
    Message("system", "Be kind."),
    Message("user", "Hello! " * 20),
    Message("assistant", "Hi."),
    Message("user", "안녕?"),
]

ENDLESS = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "nested loops in range": "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}"
    "{% endfor %}{% endfor %}",
    "deep loops": "".join(f"{{% for v{i} in range(90) %}}" for i in range(15))
    + "x"
    + "{% endfor %}" * 15,
    "filtered loop": "{% for a in range(9999) if a is even %}{% for b in range(9999) if b < 0 %}"
    "{% endfor %}{% endfor %}",
    "recursive macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "doubling macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "growing list": "{% set ns = namespace(l=[1]) %}{% for a in range(9999) %}"
    "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "searching": "{% set x = 'a' * 900000 %}{% for a in range(9999) %}{% for b in range(99) %}"
    "{% if 'b' in x %}{% endif %}{% endfor %}{% endfor %}",
    "sorting": "{% for a in range(9999) %}{% set x = range(9999) | sort %}{% endfor %}",
    "upper casing": "{% set x = 'a' * 900000 %}{% for a in range(99999) %}{% set y = x | upper %}"
    "{% endfor %}",
    "slicing": "{% set x = 'a' * 900000 %}{% for a in range(99999) %}{% set y = x[1:] %}"
    "{% endfor %}",
    "while by recursion": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
}
LARGE = {
    "product of text": "{{ 'a' * 10 ** 9 }}",
    "product of a list": "{{ ([1] * 10 ** 9) | length }}",
    "product turned round": "{{ 1000000000 * 'ab' }}",
    "doubling by ~": "{% set ns = namespace(x='a') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "doubling by +": "{% set ns = namespace(x='a') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by a set block": "{% set ns = namespace(x='a') %}{% for i in range(40) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling by join": "{% set ns = namespace(x='a') %}{% for i in range(40) %}"
    "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "doubling by replace": "{% set ns = namespace(x='aa') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
    "doubling by a method": "{% set ns = namespace(x='aa') %}{% for i in range(40) %}"
    "{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "joining by a method": "{{ ('a' * 9999).join(['b'] * 99999) }}",
    "doubling by format": "{% set ns = namespace(x='aa') %}{% for i in range(40) %}"
    "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "doubling by %": "{% set ns = namespace(x='aa') %}{% for i in range(40) %}"
    "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "width of %": "{{ '%1000000000d' % 1 }}",
    "width of % by an argument": "{{ '%*d' % (1000000000, 1) }}",
    "width of format": "{{ '{:1000000000}'.format(1) }}",
    "width of format by an argument": "{{ '{:{}}'.format(1, 1000000000) }}",
    "centre": "{{ 'a' | center(1000000000) }}",
    "centre by a method": "{{ 'a'.center(1000000000) }}",
    "zeros": "{{ 'a'.zfill(1000000000) }}",
    "tabs": "{{ ('\t' * 99).expandtabs(100000000) }}",
    "indent": "{{ ('\n' * 9999) | indent(100000000) }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set ns = namespace(x=99) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "lists in lists": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = [ns.l, range(9999) | list] %}{% endfor %}",
    "long literals": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
    "{% set ns.l = [ns.l, [" + "0," * 40_000 + "]] %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "lorem ipsum": "{{ lipsum(100000) }}",
    "nested parentheses": "{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}",
    "nested blocks": "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "a very long template": "{{ messages[0].content }}" * 100_000,
}
ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by attr": "{{ '' | attr('__class__') }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals by a name in parts": "{{ raise_exception['__glo' ~ 'bals__'] }}",
    "import": "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch PATH') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "range": "{{ range.__class__ }}",
    "format of attributes": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format map": "{{ '{m.__class__}'.format_map({'m': messages}) }}",
    "indirect format": "{{ ['{0.__class__}'] | map('format', messages) | list }}",
    "include": "{% include '/etc/passwd' %}",
    "import of a template": "{% import '/etc/passwd' as x %}",
    "extends": "{% extends '/etc/passwd' %}",
    "changing the messages": "{{ messages.append(1) }}{{ messages.clear() }}",
    "generator frame": "{% set g = messages | map('upper') %}{{ g.gi_frame.f_back.f_globals }}",
    "write": "{{ cycler.__init__.__globals__.os.popen('touch PATH').read() }}",
    "undefined": "{{ nothing.__class__.__init__.__globals__ }}",
}
assert len(ENDLESS) + len(LARGE) + len(ESCAPES) >= 40

# What a refusal may cost at most.
SECONDS = 2.0
BYTES = 400 << 20


def render(template: str) -> str:
    return "".join(segment.text for segment in render_prompt(SAID, template))


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_what_runs_long_or_grows_large_is_refused_soon(name: str) -> None:
    template = (ENDLESS | LARGE)[name]
    began = time.process_time()
    with pytest.raises(InputError, match="chat template"):
        render(template)
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("name", ["lists in lists", "doubling by ~", "output", "power", "squares"])
def test_what_is_refused_has_not_taken_much_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            render(LARGE[name])
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", list(ESCAPES))
def test_nothing_gets_out(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    try:
        written = render(ESCAPES[name].replace("PATH", str(made)))
    except InputError as error:
        written = str(error)
    assert not made.exists()
    assert "root:" not in written
    assert "<class" not in written
    assert "module" not in written


def test_a_refusal_is_one_sentence_about_the_template() -> None:
    with pytest.raises(InputError) as refusal:
        render(ENDLESS["nested loops in range"])
    assert str(refusal.value) == (
        "This model's chat template could not be used: it takes too many steps"
    )


def test_a_long_honest_conversation_stays_within_the_limits() -> None:
    long = [Message("user" if i % 2 == 0 else "assistant", "word " * 200) for i in range(2001)]
    joined = "".join(segment.text for segment in render_prompt(long, CHATML))
    assert joined.count("<|im_start|>") == 2002


def test_one_very_long_message_stays_within_the_limits() -> None:
    message = Message("user", "가나다 abc\n" * 200_000)
    assert len("".join(s.text for s in render_prompt([message], CHATML))) > 1_600_000
