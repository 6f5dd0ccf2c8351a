"""Every number of the starter model's training, each with its reason.

A recipe is written as JSON beside the checkpoints and summarised in the model's card; a work
folder refuses to go on with another recipe than the one it was begun with.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from finetune.starter.model import ModelShape


@dataclass(frozen=True)
class StarterRecipe:
    """Shape, optimiser and schedule. The corpus and its weights are in ``corpus.py``."""

    seed: int = 20261121
    """One seed for initial weights, order of documents and sampling of sources."""
    vocabulary: int = 8192
    """Two languages in 8k pieces: about 3.9 bytes a token, while the table stays a quarter of
    the model. 16k would spend half of the parameters on rows that so little text hardly touches."""
    width: int = 256
    """A multiple of 256, so that llama.cpp's K-quants are possible."""
    layers: int = 6
    """About 5M parameters outside the embedding: what some hours on two cores can still fill."""
    heads: int = 4
    """Head size 64, the smallest that every llama.cpp backend has fast kernels for."""
    feed_forward: int = 768
    """Three times the width; SwiGLU has three matrices where a plain MLP has two."""
    context: int = 1024
    """Positions the file promises; the last part of pretraining really trains all of them."""

    minutes: float = 400.0
    """Training time for both stages; the number of steps follows from the speed."""
    pretrain_share: float = 0.45
    """Of the time."""
    tokens_per_step: int = 8192
    """Far below the critical batch at these losses, yet large enough to hide Muon's own cost."""
    rows_per_pass: int = 8
    """Rows of 256 that go through the network at once: their scores fit into the cache."""
    row_length: int = 256
    """Most documents are shorter; with 512 a step takes a fifth longer for the same tokens."""
    chat_row_length: int = 512
    """A conversation is never cut, and one longer than a row is left out."""
    long_row_length: int = 1024
    """For the last part of pretraining, so that every promised position was seen."""
    long_share: float = 0.12
    """Share of a stage's steps whose prose and talk come in long rows: the last ones."""

    matrix_rate: float = 0.02
    """Muon's learning rate for the hidden matrices (update of spectral norm one, times this)."""
    vector_rate: float = 0.004
    """AdamW's rate for embeddings and gains; small models bear high rates."""
    chat_rate_scale: float = 0.7
    """Chat tuning goes on from the level rate, a little lower: its data are seen several times."""
    momentum: float = 0.95
    """Muon's Nesterov momentum, as its author uses it."""
    weight_decay: float = 0.01
    """On the matrices only. One pass over the text leaves little to overfit."""
    warmup_steps: int = 20
    """AdamW's second moments need some steps before they can be trusted."""
    chat_decay_share: float = 0.7
    """The rate is level in pretraining and falls linearly to zero over this share of chat tuning,
    so that the steps that settle the weights are taken on conversations (the decay stage of
    MiniCPM, Hu et al. 2024). A level rate also lets pretraining be lengthened at will."""
    clip_norm: float = 1.0
    """Protects AdamW's part from a rare bad batch; Muon ignores the scale of gradients."""

    own_read_epochs: float = 1.0
    """How often our own conversations are read whole, the prompts learned too: what people say is
    the scarcest text here."""
    own_epochs: float = 2.0
    """How often our own conversations are seen in chat tuning: the voice we want. At five to six
    laps the first model knew them by heart and answered new phrasings no better."""
    phrasing_epochs: float = 1.0
    """How often each further phrasing of a wish is seen with each of its replies: ten phrasings
    and five replies are 50 pairs, and those are harder to know by heart than to understand."""
    phrasing_read_epochs: float = 0.1
    """How often such pairs are read whole."""
    chat_prose_share: float = 0.25
    """Of the tokens of every step of chat tuning: pretraining's rows, going on where it stopped.
    Without any, held-out prose went from 3.9 to 4.7 nats a token; with whole documents only, laid
    into rows of conversations, Korean prose still rose from 1.47 to 1.83 bits a byte."""
    chat_weight: float = 0.95
    """How far the finished weights are from those before chat tuning towards those after it. With
    a little of those before, loops are rarer and public replies better held."""
    evaluate_every: int = 200
    """Steps between two held-out measurements."""
    evaluate_tokens: int = 16384
    """Held-out tokens per language and measurement: noise of about 0.01 nats."""
    checkpoint_every: int = 50
    """Steps; two to three minutes of work is what a power cut may cost."""

    @classmethod
    def for_gpu(cls) -> StarterRecipe:
        """For a CUDA card: 33.6M parameters (36 MB as Q8_0), and a few passes over the mixture at
        a guess of 200,000 tokens a second. Not yet trained: no card was at hand."""
        return cls(
            vocabulary=12_288,
            width=512,
            layers=8,
            heads=8,
            feed_forward=1536,
            minutes=12.0,
            pretrain_share=0.73,
            tokens_per_step=65_536,
            rows_per_pass=128,
            warmup_steps=100,
        )

    def rows_in_pass(self, length: int) -> int:
        """How many rows of another length make a pass of the same number of tokens."""
        return max(1, self.rows_per_pass * self.row_length // length)

    @property
    def shape(self) -> ModelShape:
        return ModelShape(
            vocabulary=self.vocabulary,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            feed_forward=self.feed_forward,
            context=self.context,
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"
