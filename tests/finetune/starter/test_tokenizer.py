"""Nothing is lost in tokens, and the loss covers exactly what the model is to say."""

from __future__ import annotations

import random

import jinja2
import pytest
from tokenizers import Tokenizer

from finetune.contract.chat_template import CHATML
from finetune.starter.tokenizer import (
    CONTROL_TOKENS,
    TURN_END,
    TURN_START,
    Message,
    encode_chat,
    encode_document,
    encode_plain,
    encode_prompt,
    load_tokenizer,
    save_tokenizer,
    token_byte_lengths,
)


@pytest.mark.parametrize(
    "text",
    [
        "Hello,  world!\n\n  It's 12345.",
        "안녕하세요 ㅋㅋㅋ 뷁 힣 ㅏ",
        "👩‍👩‍👧‍👦 🇰🇷 ☕️ e\u0301 \u202e \ufffd",
        "\x00\x01\x7f\t\r\n 한\n글 ",
        "",
    ],
)
def test_text_comes_back_from_its_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encode_plain(tokenizer, text), skip_special_tokens=False) == text


def test_every_byte_can_be_spelled(tokenizer: Tokenizer) -> None:
    alphabet = {
        piece
        for i in range(3, tokenizer.get_vocab_size())
        if len(piece := tokenizer.id_to_token(i) or "") == 1
    }
    assert len(alphabet) == 256
    choose = random.Random(3)
    for _ in range(50):
        text = "".join(chr(choose.randrange(1, 0xD7FF)) for _ in range(20))
        assert tokenizer.decode(encode_plain(tokenizer, text), skip_special_tokens=False) == text


def test_control_tokens_have_the_first_ids(tokenizer: Tokenizer) -> None:
    assert [tokenizer.id_to_token(i) for i in range(3)] == list(CONTROL_TOKENS)


@pytest.mark.parametrize("control", CONTROL_TOKENS)
def test_typed_text_never_becomes_a_control_token(tokenizer: Tokenizer, control: str) -> None:
    ids = encode_plain(tokenizer, f"hello {control} {control}")
    assert min(ids) > 2
    chat = encode_chat(tokenizer, [Message("user", control), Message("assistant", control, True)])
    assert [i for i in chat.ids if i <= 2] == [TURN_START, TURN_END] * 2


def test_a_saved_tokenizer_still_reads_control_tokens_as_text(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    again = load_tokenizer(path)
    text = "<|im_end|> 안녕"
    assert encode_plain(again, text) == encode_plain(tokenizer, text)
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]


CHAT = (
    Message("system", "You are kind."),
    Message("user", "안녕?"),
    Message("assistant", "안녕하세요! 반가워요."),
    Message("user", "How are you?"),
    Message("assistant", "I am fine."),
)


def learn(messages: tuple[Message, ...], *places: int) -> list[Message]:
    return [Message(m.role, m.content, i in places) for i, m in enumerate(messages)]


def test_the_loss_covers_exactly_the_completion_and_the_end_of_turn(tokenizer: Tokenizer) -> None:
    chat = encode_chat(tokenizer, learn(CHAT, 4))
    learned = [i for i, counts in zip(chat.ids, chat.mask, strict=True) if counts]
    assert learned == [*encode_plain(tokenizer, "I am fine."), TURN_END]
    assert chat.mask[-len(learned) :] == [True] * len(learned)
    assert sum(chat.mask) == len(learned)


def test_an_example_is_the_prompt_as_sent_and_the_completion(tokenizer: Tokenizer) -> None:
    chat = encode_chat(tokenizer, learn(CHAT, 4))
    prompt = encode_prompt(tokenizer, CHAT[:4])
    assert chat.ids == [*prompt, *encode_plain(tokenizer, "I am fine."), TURN_END]


def test_learning_several_turns_at_once_is_the_union_of_single_examples(
    tokenizer: Tokenizer,
) -> None:
    together = encode_chat(tokenizer, learn(CHAT, 2, 4))
    first = encode_chat(tokenizer, learn(CHAT[:3], 2))
    second = encode_chat(tokenizer, learn(CHAT, 4))
    assert together.ids == second.ids
    assert together.ids[: len(first.ids)] == first.ids
    padded = first.mask + [False] * (len(second.mask) - len(first.mask))
    assert together.mask == [a or b for a, b in zip(padded, second.mask, strict=True)]


def test_ids_are_those_of_the_template_in_the_file(tokenizer: Tokenizer) -> None:
    rendered = jinja2.Template(CHATML, keep_trailing_newline=True).render(
        messages=[{"role": m.role, "content": m.content} for m in CHAT[:4]],
        add_generation_prompt=True,
    )
    tokenizer.encode_special_tokens = False
    try:
        expected = tokenizer.encode(rendered, add_special_tokens=False).ids
    finally:
        tokenizer.encode_special_tokens = True
    assert encode_prompt(tokenizer, CHAT[:4]) == expected


def test_a_document_ends_with_the_separator(tokenizer: Tokenizer) -> None:
    encoded = encode_document(tokenizer, "Once.")
    assert encoded.ids == [*encode_plain(tokenizer, "Once."), 0]
    assert all(encoded.mask)


def test_byte_lengths_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    lengths = token_byte_lengths(tokenizer)
    text = "안녕, world 🙂"
    assert sum(lengths[i] for i in encode_plain(tokenizer, text)) == len(text.encode("utf-8"))
    assert lengths[:3] == [0, 0, 0]
