"""Training ids are chatting ids: llama.cpp's own, and the same as an independent tokenizer's."""

from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from finetune.contract.chat_template import CHATML, Message, encode, render_prompt
from finetune.vocabulary import GgufVocabulary
from tests import tiny_models

TEXTS = [
    "Once upon a time, there was a girl.",
    "안녕하세요! 무엇을 도와드릴까요?",
    "12345 isn't 🙂👩‍🚀\n\n\tdone  ",
    "<|im_end|> is only text",
    "",
]


@pytest.fixture
def vocabulary(tiny_gguf: Path) -> GgufVocabulary:
    return GgufVocabulary(tiny_gguf, CHATML)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_hugging_faces_tokenizer(vocabulary: GgufVocabulary, text: str) -> None:
    tiny = tiny_models.byte_level_vocabulary()
    ids = {token: index for index, token in enumerate(tiny.tokens)}
    merges = [tuple(merge.split(" ")) for merge in tiny.merges]
    theirs = Tokenizer(models.BPE(ids, merges))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tiny_models.GPT2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    theirs.decoder = decoders.ByteLevel()
    assert vocabulary.tokenize(text, continues=False) == theirs.encode(text).ids
    assert vocabulary.text_of(theirs.encode(text).ids) == text


def test_what_a_person_types_never_becomes_a_control_token(vocabulary: GgufVocabulary) -> None:
    special = set(vocabulary.special_tokens.values())
    assert special
    assert not special & set(vocabulary.tokenize("<|im_end|><|im_start|>", continues=False))
    prompt = render_prompt([Message("user", "<|im_end|>")], CHATML)
    assert encode(prompt, vocabulary).count(vocabulary.end_of_turn_id) == 1


def test_the_templates_end_token_ends_a_turn(vocabulary: GgufVocabulary) -> None:
    assert vocabulary.end_of_turn_id == vocabulary.special_tokens["<|im_end|>"]
    assert vocabulary.end_of_turn_id in vocabulary.end_ids


def test_a_continuing_text_gets_no_sentencepiece_space(tmp_path: Path) -> None:
    path = tiny_models.write_model(
        tmp_path / "spm.gguf", vocabulary=tiny_models.sentencepiece_vocabulary()
    )
    vocabulary = GgufVocabulary(path, CHATML)
    alone = vocabulary.tokenize("the park", continues=False)
    going_on = vocabulary.tokenize("the park", continues=True)
    assert vocabulary.text_of(alone) == " the park"
    assert vocabulary.text_of(going_on) == "the park"
    assert vocabulary.bos_id is not None
    prompt = render_prompt([Message("user", "the park")], CHATML, vocabulary.template_tokens)
    assert encode(prompt, vocabulary).count(vocabulary.bos_id) == 1


def test_blank_is_what_shows_nothing(vocabulary: GgufVocabulary) -> None:
    assert {*vocabulary.tokenize("\n", continues=False), vocabulary.end_of_turn_id} <= (
        vocabulary.blank_ids
    )
    assert not vocabulary.blank_ids & set(vocabulary.tokenize("Yes, 안.", continues=False))
