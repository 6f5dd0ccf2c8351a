"""From records to examples: what is learned, what is compared, what is held out."""

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.contract.chat_template import CHATML, Message
from finetune.contract.records import Comparison, Completion, Demonstration, Rating, Record, Verdict
from finetune.data import (
    ACROSS_WEIGHT,
    EXPLICIT_WEIGHT,
    Dataset,
    Encoder,
    Part,
    build_dataset,
    held_out_conversations,
    prompt_of,
)
from finetune.vocabulary import GgufVocabulary
from tests.finetune.conftest import feedback

PROMPT = (Message("user", "What is the answer?"),)


@pytest.fixture
def encoder(tiny_gguf: Path) -> Encoder:
    return Encoder(GgufVocabulary(tiny_gguf, CHATML), None, 256)


def place(number: int = 0, prompt: tuple[Message, ...] = PROMPT) -> dict[str, object]:
    return {
        "id": f"r{number:03d}",
        "conversation_id": "c",
        "prompt": prompt,
        "created_at": f"2026-11-20T10:00:{number:02d}Z",
    }


def rating(number: int, text: str, liked: bool) -> Rating:
    return Rating(**place(number), completion=Completion(text), liked=liked)


def comparison(number: int, texts: str, ranks: tuple[int, ...], verdict: Verdict) -> Comparison:
    completions = tuple(Completion(text) for text in texts.split())
    return Comparison(**place(number), completions=completions, ranks=ranks, verdict=verdict)


def build(records: list[Record], encoder: Encoder) -> Dataset:
    return build_dataset(
        records, encoder, held_out_fraction=0.2, rating_weight=0.5, completion_room=16
    )


def learned(part: Part, encoder: Encoder) -> list[str]:
    return [
        encoder.vocabulary.text_of(
            [i for i, m in zip(e.ids, e.completion_mask, strict=True) if m], special=True
        )
        for e in part.demonstrations
    ]


def pairs(part: Part, encoder: Encoder) -> set[tuple[str, str, float]]:
    def text(group, index):  # type: ignore[no-untyped-def]
        e = group.completions[index]
        ids = [i for i, m in zip(e.ids, e.completion_mask, strict=True) if m]
        return encoder.vocabulary.text_of(ids)

    return {(text(g, i), text(g, j), w) for g in part.preferences for i, j, w in g.pairs}


def test_learned_are_the_completion_and_the_end_of_turn_and_nothing_else(encoder: Encoder) -> None:
    data = build([rating(0, "Forty-two.", True)], encoder)
    assert learned(data.train, encoder) == ["Forty-two.<|im_end|>"]
    (example,) = data.train.demonstrations
    text = encoder.vocabulary.text_of(example.ids, special=True)
    assert text == (
        "<|im_start|>user\nWhat is the answer?<|im_end|>\n<|im_start|>assistant\n"
        "Forty-two.<|im_end|>"
    )


def test_sources_of_demonstrations(encoder: Encoder) -> None:
    data = build(
        [
            rating(0, "liked", True),
            rating(1, "disliked", False),
            comparison(2, "second first", (1, 0), "ordered"),
            comparison(3, "good fine", (0, 0), "all_good"),
            comparison(4, "awful bad", (0, 0), "all_bad"),
            Demonstration(**place(5), completion=Completion("mine"), corrects=Completion("its")),
        ],
        encoder,
    )
    assert [t.removesuffix("<|im_end|>") for t in learned(data.train, encoder)] == [
        "liked", "first", "good", "fine", "mine",
    ]  # fmt: skip


def test_pairs_and_their_weights(encoder: Encoder) -> None:
    data = build(
        [
            comparison(0, "b a c", (1, 0, 2), "ordered"),
            Demonstration(**place(1), completion=Completion("mine"), corrects=Completion("its")),
            rating(2, "up", True),
            rating(3, "down", False),
        ],
        encoder,
    )
    assert pairs(data.train, encoder) == {
        ("a", "b", EXPLICIT_WEIGHT),
        ("a", "c", EXPLICIT_WEIGHT),
        ("b", "c", EXPLICIT_WEIGHT),
        ("mine", "its", EXPLICIT_WEIGHT),
        ("up", "down", ACROSS_WEIGHT),
    }
    assert len(data.train.preferences) == 1  # one prompt: one batch element
    assert len(data.train.preferences[0].completions) == 7


def test_margins_tell_how_far_apart_a_ranking_puts_two(encoder: Encoder) -> None:
    # Four places a, (b, c), d, e: of 0 to 3, so at most two lie between.
    data = build([comparison(0, "a b c d e", (0, 1, 1, 4, 7), "ordered")], encoder)
    (group,) = data.train.preferences
    margins = {pair[:2]: m for pair, m in zip(group.pairs, group.margins, strict=True)}
    assert margins == {
        (0, 1): 0.0, (0, 2): 0.0, (0, 3): 0.5, (0, 4): 1.0,
        (1, 3): 0.0, (2, 3): 0.0, (1, 4): 0.5, (2, 4): 0.5, (3, 4): 0.0,
    }  # fmt: skip
    (pair,) = build([comparison(0, "a b", (0, 1), "ordered")], encoder).train.preferences
    assert pair.margins == ()


def test_thumbs_weigh_the_same_for_both_classes(encoder: Encoder) -> None:
    data = build([rating(n, f"text {n}", n > 0) for n in range(4)], encoder)
    (group,) = data.train.preferences
    weight = {True: 0.0, False: 0.0}
    for _, liked, w in group.thumbs:
        weight[liked] += w
    assert weight[True] == pytest.approx(weight[False])
    assert sum(weight.values()) == pytest.approx(4 * 0.5)


def test_thumbs_of_one_kind_alone_teach_no_reward_model(encoder: Encoder) -> None:
    data = build([rating(n, f"text {n}", True) for n in range(4)], encoder)
    assert data.preference_count == 0
    assert data.demonstration_count == 4
    assert dict(data.thumbs) == {True: 4}


def test_the_latest_judgement_of_a_completion_counts(encoder: Encoder) -> None:
    data = build([rating(1, "x", False), rating(0, "x", True), rating(2, "y", True)], encoder)
    assert learned(data.train, encoder) == ["y<|im_end|>"]
    assert data.train.thumb_count == 2


def test_the_latest_order_of_two_completions_counts(encoder: Encoder) -> None:
    opposite = [comparison(0, "a b", (0, 1), "ordered"), comparison(1, "a b", (1, 0), "ordered")]
    data = build(list(opposite), encoder)
    assert pairs(data.train, encoder) == {("b", "a", EXPLICIT_WEIGHT)}
    assert learned(data.train, encoder) == ["b<|im_end|>"]
    data = build([*opposite, comparison(2, "a b", (0, 1), "ordered")], encoder)
    assert pairs(data.train, encoder) == {("a", "b", EXPLICIT_WEIGHT)}
    assert learned(data.train, encoder) == ["a<|im_end|>"]
    mine = Demonstration(**place(1), completion=Completion("b"), corrects=Completion("a"))
    data = build([opposite[0], mine], encoder)
    assert pairs(data.train, encoder) == {("b", "a", EXPLICIT_WEIGHT)}
    assert learned(data.train, encoder) == ["b<|im_end|>"]


def test_what_another_comparison_prefers_is_still_learned(encoder: Encoder) -> None:
    first = comparison(0, "a b", (0, 1), "ordered")
    other = comparison(1, "a c", (0, 1), "ordered")
    opposite = comparison(2, "a b", (1, 0), "ordered")
    both = [replace(r, created_at=f"{n}") for n, r in enumerate((first, other, opposite))]
    kept = learned(build(list(both), encoder).train, encoder)
    again = [replace(r, created_at=f"{n}") for n, r in enumerate((first, opposite, other))]
    assert sorted(kept) == sorted(learned(build(list(again), encoder).train, encoder))
    assert len(kept) == 2  # a over c, and b over a


@pytest.mark.parametrize("later", [0, 3])
def test_a_thumb_up_outlives_the_opposite_order(encoder: Encoder, later: int) -> None:
    first = comparison(1, "a b", (0, 1), "ordered")
    second = comparison(2, "a b", (1, 0), "ordered")
    data = build([rating(later, "a", True), first, second], encoder)
    assert {text.removesuffix("<|im_end|>") for text in learned(data.train, encoder)} == {"a", "b"}


def test_another_order_takes_nothing_back(encoder: Encoder) -> None:
    data = build(
        [comparison(0, "a b", (0, 1), "ordered"), comparison(1, "c a", (0, 1), "ordered")], encoder
    )
    assert learned(data.train, encoder) == ["a<|im_end|>", "c<|im_end|>"]
    assert data.train.pair_count == 2


def test_the_better_of_two_is_not_learned_while_its_thumb_is_down(encoder: Encoder) -> None:
    better = comparison(1, "a b", (0, 1), "ordered")
    data = build([rating(0, "a", False), better], encoder)
    assert learned(data.train, encoder) == []
    assert pairs(data.train, encoder) == {("a", "b", EXPLICIT_WEIGHT)}
    data = build([rating(0, "a", False), better, rating(2, "a", True)], encoder)
    assert learned(data.train, encoder) == ["a<|im_end|>"]


def test_the_same_thing_twice_is_one(encoder: Encoder) -> None:
    data = build([comparison(n, "a b", (0, 1), "ordered") for n in range(3)], encoder)
    assert data.train.pair_count == 1
    assert len(data.train.demonstrations) == 1
    assert len(data.train.prompts) == 1


def test_every_user_turn_is_a_prompt_to_practise_on(encoder: Encoder) -> None:
    messages = (Message("user", "one"), Message("assistant", "1"), Message("user", "two"))
    record = Rating(**place(0, messages), completion=Completion("2"), liked=True)
    assert [p.text for p in build([record], encoder).train.prompts] == ["one", "two"]


def test_long_conversations_lose_their_oldest_turns_and_keep_the_system_message(
    encoder: Encoder,
) -> None:
    turns = [Message("system", "Be brief.")]
    for n in range(30):
        turns += [Message("user", f"question {n}"), Message("assistant", f"answer {n}")]
    messages = (*turns, Message("user", "last"))
    example = encoder.example(messages, "done")
    assert example is not None
    assert len(example.ids) <= 256
    text = encoder.vocabulary.text_of(example.ids, special=True)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nquestion ")
    assert "question 0" not in text
    assert text.endswith("last<|im_end|>\n<|im_start|>assistant\ndone<|im_end|>")


def test_what_is_too_long_for_any_cut_is_counted(encoder: Encoder) -> None:
    data = build([rating(0, "word " * 400, True)], encoder)
    assert data.demonstration_count == 0
    assert "1 completions are longer than 256 tokens" in data.notes[0]


def test_conversations_are_held_out_whole_and_stay_so() -> None:
    records = feedback(40)
    held = held_out_conversations(records, 0.2)
    assert 8 <= len(held) <= 20
    more = held_out_conversations([*records, *feedback(60)[40:]], 0.2)
    assert len(held - more) <= 2  # the hash decides, not who came last


def test_training_and_held_out_share_no_prompt_to_practise_on(encoder: Encoder) -> None:
    data = build(feedback(40), encoder)
    train = {p.ids for p in data.train.prompts}
    assert data.held_out.prompts
    assert not train & {p.ids for p in data.held_out.prompts}
    assert not {e.ids for e in data.train.demonstrations} & {
        e.ids for e in data.held_out.demonstrations
    }


def greeting(number: int, prompt: str, liked: bool = True) -> Rating:
    place = {"id": f"r{number}", "conversation_id": f"c{number}", "created_at": f"{number:03d}"}
    messages = (Message("user", prompt),)
    return Rating(**place, prompt=messages, completion=Completion("Hi."), liked=liked)


def test_conversations_that_open_alike_are_on_one_side(encoder: Encoder) -> None:
    # Every prompt in three conversations, as of a person who asks again.
    again = [greeting(n, f"question {n % 20}", liked=n % 3 > 0) for n in range(60)]
    held = held_out_conversations(again, 0.2)
    assert 0.2 * 60 <= len(held) < 0.5 * 60
    opened = {record.prompt[0].content for record in again if record.conversation_id in held}
    assert len(held) == 3 * len(opened)
    data = build(again, encoder)
    # All that is held out can be measured on: nothing of it is trained on.
    assert data.held_out.thumb_count + data.train.thumb_count == data.preference_count
    trained = {prompt_of(e) for group in data.train.preferences for e in group.completions}
    assert not trained & {prompt_of(g.completions[0]) for g in data.held_out.preferences}


@pytest.mark.parametrize("often", [40, 85])
def test_a_greeting_that_opens_everything_decides_nothing(often: int) -> None:
    """Neither is it all that is held out, nor all that is learned."""
    records = [greeting(n, "hello" if n < often else f"question {n}") for n in range(100)]
    held = held_out_conversations(records, 0.2)
    greeted = {f"c{n}" for n in range(often)}
    assert 0 < len(held & greeted) < often / 2
    assert 0 < len(held - greeted) < (100 - often) / 2
    assert 20 <= len(held) <= 40


def test_conversations_without_a_word_of_the_person_are_not_alike() -> None:
    records = [
        replace(greeting(n, ""), prompt=(Message("system", "Write a poem."),)) for n in range(40)
    ]
    assert 8 <= len(held_out_conversations(records, 0.2)) <= 16


def test_a_later_prompt_that_was_trained_on_is_not_measured_on(encoder: Encoder) -> None:
    # Each conversation was begun in its own words, and begun again with the same ones.
    records: list[Record] = [greeting(n, f"question {n}", liked=n % 2 > 0) for n in range(20)]
    records += [
        replace(greeting(n, "Hello", liked=n % 3 > 0), id=f"s{n}", created_at=f"{20 + n:03d}")
        for n in range(20)
    ]
    data = build(records, encoder)
    assert data.held_out.preferences
    held = {prompt_of(g.completions[0]) for g in data.held_out.preferences}
    trained = {prompt_of(e) for group in data.train.preferences for e in group.completions}
    assert not trained & held
    assert data.preference_count == 22  # "Hello" in each part: both were collected


def test_what_always_begins_alike_is_learned_and_the_person_is_told(encoder: Encoder) -> None:
    data = build([greeting(n, ("Hello", "hello ")[n % 2], n % 3 > 0) for n in range(20)], encoder)
    assert not data.held_out.is_judged
    assert "too few conversations that begin differently" in data.notes[-1]


def test_few_conversations_are_not_split_and_the_person_is_told(encoder: Encoder) -> None:
    data = build([rating(0, "x", True)], encoder)
    assert not data.held_out.prompts
    assert "cannot be measured on unseen" in data.notes[-1]


def test_one_giant_conversation_is_never_held_out() -> None:
    records: list[Record] = [rating(n, f"{n}", True) for n in range(50)]
    records += feedback(6)
    assert "c" not in held_out_conversations(records, 0.2)


def test_an_answer_is_learned_behind_the_block_that_a_template_opens(tiny_gguf: Path) -> None:
    opening = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
    assert opening != CHATML
    encoder = Encoder(GgufVocabulary(tiny_gguf, opening), opening, 256)
    example = encoder.example(PROMPT, "Four.")
    assert example is not None
    text = encoder.vocabulary.text_of(example.ids, special=True)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nFour.<|im_end|>")
    prompt = encoder.prompt(PROMPT, 16)
    assert example.ids[: example.completion_mask.index(True)] == prompt
