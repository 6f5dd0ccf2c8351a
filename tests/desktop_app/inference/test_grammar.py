"""A completion follows its grammar or its JSON schema, and a bad one is a sentence."""

from __future__ import annotations

import json
import re

import pytest

from desktop_app.inference.engine import SamplingParams
from desktop_app.inference.grammar import DEEPEST, LONGEST, MOST_REPETITIONS, grammar_of
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.contract.errors import InputError
from tests.desktop_app.inference.asking import ask

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z]{1,8}$"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
"""llama_cpp's translation knows no bounds of numbers."""


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "yes" | "no"', "yes|no"),
        ("root ::= [0-9] [0-9] [0-9]", "[0-9]{3}"),
        ('root ::= "안녕" ("하세요" | " 👨‍👩‍👧") "!"?', "안녕(하세요| 👨‍👩‍👧)!?"),
        ("root ::= [가-힣] [가-힣]", "[가-힣]{2}"),
        ('root ::= line line\nline ::= "- " [a-z]+ "\\n"', r"(- [a-z]+\n){2}"),
    ],
)
def test_the_text_is_one_that_the_grammar_allows(
    engine: LlamaEngine, grammar: str, pattern: str
) -> None:
    answer = ask(engine, "Hello", seeds=range(4), max_tokens=200, grammar=grammar)
    for stream in answer.streams.values():
        if stream.reason == "end_of_turn":
            assert re.fullmatch(pattern, stream.text), stream.text
        else:  # a word may be long
            assert stream.reason == "max_tokens"
    assert any(stream.reason == "end_of_turn" for stream in answer.streams.values())
    again = ask(engine, "Hello", seeds=range(4), max_tokens=200, grammar=grammar)
    assert again.texts == answer.texts


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"mirostat": 1},
        {"mirostat": 2},
        {"typical_p": 0.5, "top_k": 0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"top_k": 1},
        {"frequency_penalty": 1.0, "dry_multiplier": 1.0},
        {"logprobs": 3},
    ],
)
def test_every_other_setting_works_beside_a_grammar(
    engine: LlamaEngine, settings: dict[str, object]
) -> None:
    answer = ask(engine, "Hello", seeds=[1, 2], grammar='root ::= ("ab" | "ba") "c"', **settings)
    assert all(text in ("abc", "bac") for text in answer.texts), answer.texts
    assert all(stream.reason == "end_of_turn" for stream in answer.streams.values())


def test_a_grammar_that_allows_nothing_more_ends_the_stream(engine: LlamaEngine) -> None:
    # After "a" the grammar wants nothing, and the only ways to end are made impossible.
    ended = ask(engine, "Hello", grammar='root ::= "a"', max_tokens=50).streams[0]
    assert (ended.text, ended.reason) == ("a", "end_of_turn")
    # No token of this model may stand here: the grammar wants a token that never comes.
    stuck = ask(engine, "Hello", grammar='root ::= "a" <[456]> "b"', max_tokens=50).streams[0]
    assert (stuck.text, stuck.reason) == ("a", "end_of_turn")
    assert ask(engine, "Hello").done


def test_an_empty_completion_is_allowed_where_the_grammar_allows_it(engine: LlamaEngine) -> None:
    answer = ask(engine, "Hello", grammar='root ::= "" | "a"', seeds=range(4))
    assert set(answer.texts) <= {"", "a"}


def test_a_token_that_fits_is_the_one_that_is_drawn_without_a_grammar(engine: LlamaEngine) -> None:
    free = ask(engine, "Hello", seeds=range(30), max_tokens=1).texts
    bound = ask(engine, "Hello", seeds=range(30), max_tokens=1, grammar="root ::= [ -z]+").texts
    fitting = [at for at, text in enumerate(free) if re.fullmatch("[ -z]+", text)]
    assert 0 < len(fitting) < len(free)
    assert [bound[at] for at in fitting] == [free[at] for at in fitting]


@pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)])
def test_json_of_a_schema(engine: LlamaEngine, schema: object) -> None:
    answer = ask(engine, "Who?", seeds=range(3), max_tokens=300, json_schema=schema)
    read = [json.loads(s.text) for s in answer.streams.values() if s.reason == "end_of_turn"]
    assert read
    for person in read:
        assert list(person) == ["name", "age", "tags"]
        assert 1 <= len(person["name"]) <= 8
        assert isinstance(person["age"], int)
        assert len(person["tags"]) <= 3
        assert set(person["tags"]) <= {"a", "b"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "not a JSON object"),
        ({"type": "no such type"}, ""),
        ({"$ref": "https://example.com/schema.json"}, "outside itself"),
        ({"$ref": "#/nowhere"}, ""),
        ({"type": "string", "pattern": "no anchors"}, ""),
        ({"type": "array", "items": {}, "minItems": 10**9}, "repetitions"),
        ({"type": "string", "maxLength": MOST_REPETITIONS + 1}, "repetitions"),
        ({"type": "string", "pattern": "^a{2,1000000}$"}, "repetitions"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_sentence(schema: object, words: str) -> None:
    with pytest.raises(InputError, match="JSON schema") as caught:
        grammar_of(SamplingParams(json_schema=schema))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert len(str(caught.value)) < 250


def test_a_grammar_that_would_exhaust_the_stack_is_refused_before_llama_cpp_reads_it() -> None:
    deep = "root ::= " + "(" * (DEEPEST + 1) + '"a"' + ")" * (DEEPEST + 1)
    with pytest.raises(InputError, match="brackets inside"):
        grammar_of(SamplingParams(grammar=deep))
    with pytest.raises(InputError, match="200,000 are allowed"):
        grammar_of(SamplingParams(grammar='root ::= "' + "a" * LONGEST + '"'))
    flat = 'root ::= "' + "(" * 2000 + '" [(((((] # ((((\n'
    assert grammar_of(SamplingParams(grammar=flat)) == flat


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= a root "y" | "z"\na ::= b\nb ::= "x" |',
        'root ::= b root "y" | "z"\nb ::= c*\nc ::= "x"',
        'root ::= a\na ::= b? a "x"\nb ::= "y"',
        'root ::= ("a"?)* root "b"',
        'root ::= a "x"\na ::= "" b\nb ::= c\nc ::= a "q" | "r"',
        'root ::= ("x"{0,3} (root "b"))',
    ],
)
def test_a_rule_that_begins_with_itself_is_refused_however_it_hides(grammar: str) -> None:
    with pytest.raises(InputError, match="begins with itself"):
        grammar_of(SamplingParams(grammar=grammar))


def test_rules_that_refer_to_themselves_further_on_are_fine(engine: LlamaEngine) -> None:
    nested = 'root ::= "(" inner ")"\ninner ::= "a" | root | [bc]{1,2} inner?'
    assert grammar_of(SamplingParams(grammar=nested)) == nested
    answer = ask(engine, "Hello", grammar=nested, seeds=range(3), max_tokens=60)
    assert all(text.startswith("(") for text in answer.texts)
