"""What the trainers are compared on: random checkpoints and synthetic feedback, by a seed.

A checkpoint is written twice, as a folder for transformers and as a GGUF, both in F32 and with
the same numbers. Its weights are noise, but completions end: the embedding's first column is
the same for all tokens, so that a constant runs through the network and the end of turn can be
given a chance of its own. Lengths are those of chats; texts follow a Markov chain, so that there
is something to learn.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from trainer_task import Row
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.contract.chat_template import CHATML
from tests.tiny_models import NORMAL, TinyShape, byte_level_vocabulary, linear_shapes

Array = np.ndarray[Any, np.dtype[np.float32]]

CONSTANT: Final = 2.0
"""The embedding's first column."""
END_CHANCE: Final = 1 / 28
"""Of a token to be the end of turn, on average: completions of at most 64 tokens then have some
20."""
COMMON: Final = 2048
"""Tokens that texts are made of."""
FOLLOWERS: Final = 4
"""Tokens that mostly come after a token."""


@dataclass(frozen=True)
class Size:
    """A Llama of these measures; the head is the embedding."""

    name: str
    shape: TinyShape
    vocabulary: int

    @property
    def block_weights(self) -> int:
        """Weights of the linear layers, N."""
        return sum(rows * columns for rows, columns in linear_shapes(self.shape).values())

    @property
    def adapter_weights(self) -> int:
        """Weights of a LoRA of rank 1."""
        return sum(rows + columns for rows, columns in linear_shapes(self.shape).values())


SIZES: Final = {
    "cpu": (
        Size("10M", TinyShape(320, 6, 5, 5, 896, 1024), 8_192),
        Size("30M", TinyShape(512, 7, 8, 8, 1344, 1024), 16_384),
    ),
    "cuda": (
        Size("0.5B", TinyShape(896, 24, 14, 2, 4864, 32_768), 151_936),
        Size("1.5B", TinyShape(1536, 28, 12, 2, 8960, 32_768), 151_936),
    ),
}
"""By device; on a GPU the shapes of Qwen2.5."""


@dataclass(frozen=True)
class Checkpoint:
    """A random model, twice."""

    size: Size
    folder: Path
    gguf: Path
    end_id: int
    pad_id: int


# --- checkpoints -----------------------------------------------------------------------------


def write_checkpoint(folder: Path, size: Size, seed: int = 0) -> Checkpoint:
    """Write a random model as ``folder/hf`` and ``folder/model.gguf``."""
    shape, draws = size.shape, np.random.default_rng(seed)
    vocabulary = byte_level_vocabulary()
    end_id, pad_id = (vocabulary.id_of(name) for name in ("<|im_end|>", "<|endoftext|>"))
    weights: dict[str, Array] = {}
    for name, (rows, columns) in linear_shapes(shape).items():
        values = draws.standard_normal((rows, columns), dtype=np.float32) / columns**0.5
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            values /= math.sqrt(2 * shape.layers)  # what the layers add up to stays small
        weights[name] = values
    embedding = draws.standard_normal((size.vocabulary, shape.width), dtype=np.float32)
    embedding /= shape.width**0.5
    embedding[:, 0] = CONSTANT
    ones = np.ones(shape.width, dtype=np.float32)
    norms = ["output_norm.weight"]
    for layer in range(shape.layers):
        norms += [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
    weights |= {"token_embd.weight": embedding, **dict.fromkeys(norms, ones)}

    hf = folder / "hf"
    hf.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    _give_the_end_its_chance(config, weights, end_id)
    (hf / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    save_file({_hf_name(name): w for name, w in weights.items()}, hf / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    file = folder / "model.gguf"
    _write_gguf(file, size, weights, end_id)
    return Checkpoint(size, hf, file, end_id, pad_id)


def _give_the_end_its_chance(config: LlamaConfig, weights: dict[str, Array], end_id: int) -> None:
    """Set the end's first column, by what the network makes of random texts."""
    model = LlamaForCausalLM(config)
    model.load_state_dict(
        {_hf_name(name): torch.from_numpy(w) for name, w in weights.items()}, strict=False
    )
    model.tie_weights()
    with torch.no_grad():
        luck = torch.Generator().manual_seed(1)
        ids = torch.randint(0, config.vocab_size, (8, 64), generator=luck)
        hidden = model.model(ids).last_hidden_state[:, 8:].flatten(0, 1)
        table = torch.from_numpy(weights["token_embd.weight"])
        others = (hidden @ table.T).logsumexp(-1)
        lowest, highest = 0.0, 100.0
        for _ in range(30):
            first = (lowest + highest) / 2
            logit = hidden @ table[end_id] + (first - CONSTANT) * hidden[:, 0]
            too_likely = (logit - others).sigmoid().mean() > END_CHANCE
            lowest, highest = (lowest, first) if too_likely else (first, highest)
        table[end_id, 0] = lowest


_HF_NAMES: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def _hf_name(name: str) -> str:
    if name.startswith("blk."):
        _, layer, kind, _ = name.split(".")
        return f"model.layers.{layer}.{_HF_NAMES[kind]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight"}[name]  # fmt: skip


def _write_gguf(path: Path, size: Size, weights: dict[str, Array], end_id: int) -> None:
    shape, tiny = size.shape, byte_level_vocabulary()
    fillers = [f"<filler{number}>" for number in range(size.vocabulary - len(tiny.tokens))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random {size.name}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(size.vocabulary)
    writer.add_tokenizer_model(tiny.model)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tiny.tokens, *fillers])
    writer.add_token_types([*tiny.types, *(NORMAL for _ in fillers)])
    writer.add_token_merges(list(tiny.merges))
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(end_id)
    writer.add_chat_template(CHATML)
    for name, values in weights.items():
        heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(name.split(".")[-2], 0)
        if heads:  # llama.cpp's order of rotary pairs
            pairs = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2)
            values = np.ascontiguousarray(pairs.reshape(values.shape))
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- feedback --------------------------------------------------------------------------------


class Texts:
    """Prompts and completions of chat-like lengths, from a Markov chain of its own."""

    def __init__(self, checkpoint: Checkpoint, seed: int) -> None:
        self._random = random.Random(seed)
        self._end = checkpoint.end_id
        world = random.Random(0)
        usable = [i for i in range(checkpoint.size.vocabulary)
                  if i not in (checkpoint.end_id, checkpoint.pad_id)]  # fmt: skip
        self._common = world.sample(usable, COMMON)
        self._after = {t: world.choices(self._common, k=FOLLOWERS) for t in self._common}
        self._pleasant = set(world.sample(self._common, COMMON // 2))

    def prompt(self) -> list[int]:
        return self._text(self._length(28, 0.6, 8, 160))

    def row(self) -> Row:
        prompt = self.prompt()
        return self._with_completion(prompt, self._text(self._length(24, 0.8, 4, 190)))

    def ranking(self, count: int) -> list[Row]:
        """Completions of one prompt; the more pleasant tokens, the better."""
        prompt = self.prompt()
        texts = [self._text(self._length(24, 0.6, 4, 120)) for _ in range(count)]
        for place, text in enumerate(texts):
            share = 0.9 - 0.8 * place / (count - 1)
            for at in range(len(text)):
                wanted = self._random.random() < share
                while (text[at] in self._pleasant) != wanted:
                    text[at] = self._random.choice(self._common)
        return [self._with_completion(prompt, text) for text in texts]

    def _with_completion(self, prompt: list[int], text: list[int]) -> Row:
        return Row([*prompt, *text, self._end], len(prompt))

    def _length(self, middle: float, spread: float, least: int, most: int) -> int:
        drawn = round(self._random.lognormvariate(math.log(middle), spread))
        return min(most, max(least, drawn))

    def _text(self, length: int) -> list[int]:
        text = [self._random.choice(self._common)]
        while len(text) < length:
            usual = self._random.random() < 0.8
            text.append(self._random.choice(self._after[text[-1]] if usual else self._common))
        return text
