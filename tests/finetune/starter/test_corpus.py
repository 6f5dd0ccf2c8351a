"""What is read from our own conversations and from the public files, and what is held out."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from finetune.starter import corpus
from finetune.starter.corpus import (
    SOURCES,
    Source,
    Turn,
    chat_documents,
    clean,
    copies,
    is_held_out,
    own_documents,
    parse_conversations,
    phrasing_examples,
    pretraining_documents,
    training_examples,
)
from finetune.starter.tokenizer import Message

TEXT = """# a comment
S: Be kind.
U: Hi
A: Hello!
A: Hey there.
  How are you?
U: Fine
A: Good.

U: 안녕
A: 안녕하세요!
"""


def test_turns_alternatives_continuations_and_comments_are_read() -> None:
    conversations, problems = parse_conversations(TEXT)
    assert problems == []
    assert conversations == [
        [
            Turn("system", ("Be kind.",)),
            Turn("user", ("Hi",)),
            Turn("assistant", ("Hello!", "Hey there.\nHow are you?")),
            Turn("user", ("Fine",)),
            Turn("assistant", ("Good.",)),
        ],
        [Turn("user", ("안녕",)), Turn("assistant", ("안녕하세요!",))],
    ]


def test_each_alternative_is_an_example_and_the_chat_goes_on_from_the_first() -> None:
    conversations, _ = parse_conversations(TEXT)
    main, other = training_examples(conversations[0])
    assert [(m.content, m.learn) for m in main] == [
        ("Be kind.", False),
        ("Hi", False),
        ("Hello!", True),
        ("Fine", False),
        ("Good.", True),
    ]
    assert [(m.content, m.learn) for m in other] == [
        ("Be kind.", False),
        ("Hi", False),
        ("Hey there.\nHow are you?", True),
    ]


def test_every_phrasing_goes_with_every_reply() -> None:
    text = "U: Hi\nU: Hello\nU: Hey\nA: Hi!\nA: Welcome.\nU: Bye\nU: Later\nA: See you.\n"
    conversations, problems = parse_conversations(text)
    assert problems == []
    pairs = phrasing_examples(conversations[0])
    assert [tuple(m.content for m in pair) for pair in pairs] == [
        ("Hello", "Hi!"),
        ("Hello", "Welcome."),
        ("Hey", "Hi!"),
        ("Hey", "Welcome."),
        ("Hi", "Hi!", "Later", "See you."),
    ]
    assert all([m.learn for m in pair] == [False] * (len(pair) - 1) + [True] for pair in pairs)
    # The first phrasing is the conversation's own, with each of its replies.
    assert [m[-1].content for m in training_examples(conversations[0])] == ["See you.", "Welcome."]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("U: Hi", "line 1: the last turn must be the assistant's"),
        ("A: Hi", "line 1: turns must alternate, the person first"),
        ("U: a\nA: b\nS: c", "line 1: turns must alternate, the person first"),
        ("\n  lost", "line 2: a continuation line without a turn before it"),
        ("U: Hi\nX: no\nA: yes", "line 1: cannot read 'X: no'"),
        ("S: rules", "line 1: nothing but a system turn"),
    ],
)
def test_a_faulty_conversation_is_named_and_the_rest_is_read(text: str, problem: str) -> None:
    conversations, problems = parse_conversations(text + "\n\nU: ok\nA: fine\n")
    assert problems == [problem]
    assert conversations == [[Turn("user", ("ok",)), Turn("assistant", ("fine",))]]


def test_no_conversations_is_not_an_error(tmp_path: Path) -> None:
    assert own_documents(tmp_path, 5.0, 1.0) == ([], [])


def test_our_conversations_are_repeated_but_held_out_ones_are_not(tmp_path: Path) -> None:
    lines = [f"U: question {n}\nA: reply {n}\n" for n in range(300)]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    documents, _ = own_documents(tmp_path, 3.0, 1.0)
    held = [d for d in documents if d.held_out]
    assert 0 < len(held) < 20
    assert len(documents) - len(held) == 3 * (300 - len(held))


def test_what_is_held_out_is_learned_nowhere(tmp_path: Path) -> None:
    said = ["question 192", "question 265", "question 362"]  # held out, see below
    assert all(is_held_out("conversations", text) for text in said)
    (tmp_path / "a.txt").write_text(
        f"U: {said[0]}\nA: a\n\n"  # also another way to say the first wish below
        f"U: {said[1]}\nU: in other words\nA: b\n\n"  # whose other words go on below
        f"U: {said[2]}\nA: c\n\n"
        f"U: question 1\nU: {said[0].upper()}!\nA: d\nU: in other words\nA: e\n",
        encoding="utf-8",
    )
    documents, _ = own_documents(tmp_path, 1.0, 1.0)
    assert {d.messages[0].content for d in documents if d.held_out} == {said[2]}
    assert "question 1" in {d.messages[0].content for d in documents if not d.held_out}


def test_the_split_is_stable_and_by_the_opening_of_a_conversation() -> None:
    held = [n for n in range(2000) if is_held_out("conversations", f"question {n}")]
    assert held[:3] == [192, 265, 362]  # for ever: a change here would mix the sides
    assert 20 < len(held) < 60
    assert is_held_out("x", "Hello, you!") == is_held_out("x", "hello you")


def test_alternatives_of_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    body = "\n".join(f"U: question {n}\nA: a {n}\nA: b {n}\n" for n in range(300))
    (tmp_path / "a.txt").write_text(body, encoding="utf-8")
    documents, _ = own_documents(tmp_path, 1.0, 1.0)
    sides: dict[str, set[bool]] = {}
    for document in documents:
        sides.setdefault(document.messages[0].content, set()).add(document.held_out)
    assert all(len(side) == 1 for side in sides.values())


def test_a_fraction_of_the_rows_is_chosen_for_good() -> None:
    counts = [copies(1.25, f"row {n}") for n in range(2000)]
    assert set(counts) == {1, 2}
    assert sum(counts) / 2000 == pytest.approx(1.25, abs=0.03)
    assert counts == [copies(1.25, f"row {n}") for n in range(2000)]


def test_cleaning_composes_and_removes_the_invisible() -> None:
    assert clean("e\u0301  a\u00a0b\u200b\r\n\n\n\n \ud55c ") == "é a b\n\n한"


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    path = folder / f"{name}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def dialogue(*contents: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]}


def test_people_with_a_human_life_do_not_come_into_chat_tuning(tmp_path: Path) -> None:
    rows = [dialogue("Hi.", "My wife and I went out."), dialogue("Hi there.", "Nice to meet you.")]
    write_rows(tmp_path, "talks", rows)
    source = Source("talks", "talk", "en", 1.0, 1.0, "MIT", "us")
    documents = list(chat_documents(tmp_path, source))
    assert [d.messages[1].content for d in documents] == ["Nice to meet you."]
    assert documents[0].messages[1] == Message("assistant", "Nice to meet you.", learn=True)
    texts = [d.text for d in pretraining_documents(tmp_path, source)]
    assert texts[0] == "- Hi.\n- My wife and I went out."


def test_persona_chats_and_unlicensed_text_are_kept_out() -> None:
    assert all(s.chat == 0 for s in SOURCES if "persona_" in s.file and "personality" not in s.file)
    names = " ".join(s.file for s in SOURCES)
    assert "nolicence" not in names
    assert "gpteacher" not in names
    assert all(s.licence and s.origin for s in SOURCES)


def test_the_name_is_filled_in(tmp_path: Path) -> None:
    write_rows(tmp_path, "who", [dialogue("Who?", "I am {{name}} by {{author}}.")])
    source = Source("who", "chat", "en", 1.0, 2.0, "MIT", "us")
    documents = list(chat_documents(tmp_path, source))
    assert len(documents) == 2
    assert documents[0].messages[1].content == "I am Attune by the Attune project."


def test_sentences_are_gathered_into_documents(tmp_path: Path) -> None:
    rows = [dialogue(f"문장 {n}번입니다") for n in range(100)]
    write_rows(tmp_path, "lines", rows)
    source = Source("lines", "lines", "ko", 1.0, 0, "MIT", "us")
    documents = list(pretraining_documents(tmp_path, source))
    read = [line for d in documents for line in d.text.split("\n")]
    assert sorted(read) == sorted(f"문장 {n}번입니다" for n in range(100))
    assert max(d.text.count("\n") for d in documents) < corpus.LINES_PER_DOCUMENT


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    source = Source("gone", "prose", "en", 1.0, 0, "MIT", "us")
    with pytest.raises(ValueError, match=r"no file gone\.jsonl\.gz"):
        list(pretraining_documents(tmp_path, source))


def test_what_is_near_to_an_examination_prompt_counts_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "everyday_prompts", lambda: frozenset({"abcdefgh"}))
    for cached in (corpus.is_everyday, corpus._everyday_pieces):
        cached.cache_clear()
    # Six pieces of three letters, abc to fgh.
    assert corpus.is_everyday("A b c, d e f g h i")  # 6 of 7 pieces in both: 0.86
    assert corpus.is_everyday("abcdefg")  # 5 of 6
    assert not corpus.is_everyday("abcdef")  # 4 of 6
    assert not corpus.is_everyday("zabcdefghij")  # 6 of 9
    assert not corpus.is_everyday("")
    for cached in (corpus.is_everyday, corpus._everyday_pieces):
        cached.cache_clear()


def test_everyday_prompts_are_never_learned() -> None:
    prompts = corpus.everyday_prompts()
    assert len(prompts) == 200 + 80
    assert corpus.has_everyday_prompt(
        [Message("user", "What do bees make"), Message("assistant", "x")]
    )
    assert not corpus.has_everyday_prompt([Message("assistant", "What do bees make?")])
    # Counted another way than by the code that leaves them out.
    pieces = [{p[i : i + 3] for i in range(max(1, len(p) - 2))} for p in sorted(prompts)]
    documents, problems = own_documents(corpus.EVERYDAY / "conversations", 1.0, 0.0)
    assert problems == []
    opened = {(d.language, d.messages[0].content) for d in documents}
    assert len(opened) >= 3000
    assert 0.4 < sum(language == "ko" for language, _ in opened) / len(opened) < 0.6
    said = {corpus.fold(m.content) for d in documents for m in d.messages if m.role == "user"}
    assert not said & prompts
    some = random.Random(1).sample(sorted(said), 3000)
    for text in some:
        own = {text[i : i + 3] for i in range(max(1, len(text) - 2))}
        assert all(len(own & other) < 0.7 * len(own | other) for other in pieces), text


def test_public_rows_with_an_everyday_prompt_are_left_out(tmp_path: Path) -> None:
    asked = "What do bees make?"
    write_rows(tmp_path, "rows", [dialogue(asked, "Honey."), dialogue("Who are you?", "A bee.")])
    source = Source("rows", "chat", "en", 1.0, 1.0, "MIT", "us")
    for read in (pretraining_documents, chat_documents):
        said = [document.messages[0].content for document in read(tmp_path, source)]
        assert said == ["Who are you?"]
