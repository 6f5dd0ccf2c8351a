"""A tiny tokenizer and network, made in the test session: nothing here reads a data set."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from finetune.starter.model import ModelShape, StarterModel
from finetune.starter.tokenizer import train_tokenizer

TEXTS = [
    "Hello! How are you today? I am fine, thank you.",
    "안녕하세요! 오늘은 기분이 어때요? 저는 잘 지내요. 고마워요.",
    "assistant\nuser\nsystem\nThe cat sat on the mat in 2026.",
    "오늘 날씨가 좋네요. 산책하러 갈까요? 네, 좋아요.",
] * 4


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


@pytest.fixture
def shape(tokenizer: Tokenizer) -> ModelShape:
    return ModelShape(
        vocabulary=tokenizer.get_vocab_size(),
        width=128,
        layers=2,
        heads=2,
        feed_forward=160,
        context=64,
    )


@pytest.fixture
def model(shape: ModelShape) -> StarterModel:
    """Random everywhere: the real start has zeros, with which half of the network is silent."""
    import torch

    model = StarterModel(shape, seed=7)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.05 if parameter.dim() == 1 else 0.08))
    return model
