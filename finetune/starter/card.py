"""The card of the starter model, written from what was really done: nothing in it is typed twice.

Sources come from ``corpus.py``, figures from the training's own log, samples from the finished
model by a rule that cannot choose: the first held-out prompts in the order of a hash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from finetune.starter.corpus import REPOSITORIES, SOURCES, Document, stable_share
from finetune.starter.model import StarterModel
from finetune.starter.recipe import StarterRecipe
from finetune.starter.tokenizer import END_OF_TEXT, TURN_END, Message, encode_prompt

SHOWN = 20
MEASURED = 60
MOST_TOKENS = 120
TEMPERATURE, TOP_K = 0.3, 40
"""As the app asks this model by default."""
EVERYDAY = ("Hi", "How are you?", "Thank you", "What is your name?", "Are you a person?")
EVERYDAY_KO = ("안녕", "잘 지내?", "고마워", "이름이 뭐야?", "너는 사람이야?")


@dataclass(frozen=True)
class Sample:
    """What the model said to a prompt, and whether it ended its turn by itself."""

    prompt: str
    completion: str
    tokens: int
    ended: bool


@torch.no_grad()
def complete(
    model: StarterModel, tokenizer: Tokenizer, prompt: str, temperature: float, seed: int
) -> Sample:
    """One reply, the same for the same seed. Slow and simple: the app uses llama.cpp."""
    # A seed for each prompt: with one for all, every reply would begin with the same draw.
    generator = torch.Generator().manual_seed(seed + int(2**32 * stable_share(prompt)))
    ids = encode_prompt(tokenizer, [Message("user", prompt)])
    start = len(ids)
    while len(ids) - start < MOST_TOKENS and len(ids) < model.shape.context:
        scores = model.logits(model(torch.tensor([ids]))[0, -1])
        if temperature > 0:
            best = scores.topk(min(TOP_K, len(scores)))
            shares = (best.values / temperature).softmax(dim=-1)
            token = int(best.indices[torch.multinomial(shares, 1, generator=generator)])
        else:
            token = int(scores.argmax())
        if token in (TURN_END, END_OF_TEXT):
            return Sample(prompt, tokenizer.decode(ids[start:]), len(ids) - start, True)
        ids.append(token)
    return Sample(prompt, tokenizer.decode(ids[start:]), len(ids) - start, False)


def held_out_prompts(documents: Sequence[Document], language: str) -> list[str]:
    """First words of held-out conversations, each once, in an order nobody chose."""
    prompts = {
        document.messages[0].content
        for document in documents
        if document.held_out
        and document.language == language
        and document.messages[0].role == "user"
    }
    return sorted(prompts, key=lambda prompt: stable_share("sample/" + prompt))


def write_card(
    path: Path,
    recipe: StarterRecipe,
    log: Path,
    model: StarterModel,
    tokenizer: Tokenizer,
    own: Sequence[Document],
    machine: str,
) -> None:
    """Write the card whole, beside and then in place. ``machine``: "on a ...", in words."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    sections = [
        _head(recipe, model, entries, machine),
        _figures(entries),
        _samples(model, tokenizer, own, recipe.seed),
        _data(own, recipe),
        _NOTICES,
        _LIMITS,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text("\n".join(sections), encoding="utf-8")
    os.replace(beside, path)


def _head(
    recipe: StarterRecipe, model: StarterModel, entries: list[dict[str, Any]], machine: str
) -> str:
    weights = sum(parameter.numel() for parameter in model.parameters())
    table = model.embed_tokens.weight.numel()
    by_stage = {entry["stage"]: entry for entry in entries}
    pretrain, chat = by_stage["pretrain"], by_stage["chat"]
    return f"""# Attune Starter

A very small chat model for English and Korean, trained from scratch by the Attune project so that
the app has something of its own to talk with and to learn from on the first day.

* **Kind**: Llama architecture, {weights / 1e6:.1f}M parameters ({table / 1e6:.1f}M of them the
  embedding, which is also the output head), {recipe.layers} layers, width {recipe.width},
  {recipe.heads} heads, feed-forward {recipe.feed_forward}, context {recipe.context},
  {recipe.vocabulary} byte-level BPE tokens (three of them control tokens).
* **File**: GGUF, matrices Q8_0, norms F32; ChatML, and no system turn by default.
* **Licence of the weights**: CC BY-SA 4.0, with the attributions below. (The program is MIT.)
* **Made by**: `python -m finetune starter`; recipe in `finetune/starter/recipe.py`, mixture in
  `corpus.py`, seed {recipe.seed}; experiments, and how this very file came about, in `LOG.md`.
* **Compute**: {chat["seconds"] / 60:.0f} minutes {machine}.
* **Read**: {pretrain["tokens"] / 1e6:.2f}M tokens of pretraining ({pretrain["step"]} steps of
  {recipe.tokens_per_step}), then {(chat["tokens"] - pretrain["tokens"]) / 1e6:.2f}M tokens of
  chat tuning ({chat["step"]} steps): conversations with the loss on replies and their end (some
  of ours read whole), and {100 * recipe.chat_prose_share:.0f} % of each step text of pretraining.
  Muon for matrices, AdamW for the rest; the rate level, then linear to zero.
"""


_SETS = {
    "pretrain_en": "English pretraining text",
    "pretrain_ko": "Korean pretraining text",
    "chat_en": "replies, public English chats",
    "chat_ko": "replies, public Korean chats",
    "chat_own_en": "replies, our English conversations",
    "chat_own_ko": "replies, our Korean conversations",
}


def _figures(entries: list[dict[str, Any]]) -> str:
    """Held-out losses at the end of each stage."""
    ends: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if any(key.startswith("held_out/") for key in entry):
            ends[entry["stage"]] = entry

    def cell(stage: str, key: str) -> str:
        value = ends.get(stage, {}).get(f"held_out/{key}")
        return "" if value is None else f"{value:.3f}"

    lines = [
        "## Figures",
        "",
        "Held-out text, split by conversation; replies count with their end of turn.",
        "",
        "| held-out set | nats/token after pretraining | nats/token, final | bits/byte, final |",
        "|---|--:|--:|--:|",
    ]
    for key, words in _SETS.items():
        final = f"{cell('chat', key)} | {cell('chat', key + '/bits_per_byte')}"
        lines.append(f"| {words} | {cell('pretrain', key)} | {final} |")
    lines += ["", "![Losses over the tokens that were read](curves.svg)"]
    return "\n".join(lines) + "\n"


def _samples(model: StarterModel, tokenizer: Tokenizer, own: Sequence[Document], seed: int) -> str:
    lines = [
        "## Samples",
        "",
        f"Not chosen: the first {SHOWN} held-out prompts of each language by hash, one reply each",
        f"at temperature {TEMPERATURE}, top-k {TOP_K}, fixed seed, at most {MOST_TOKENS} tokens.",
        "Before them, ten fixed everyday prompts, whose like was in the training.",
        "",
        f"| everyday prompt | likeliest reply | at temperature {TEMPERATURE} |",
        "|---|---|---|",
    ]
    for prompt in EVERYDAY + EVERYDAY_KO:
        both = [complete(model, tokenizer, prompt, t, seed).completion for t in (0.0, TEMPERATURE)]
        lines.append(f"| {prompt} | {_cell(both[0])} | {_cell(both[1])} |")
    lines.append("")
    for language, name in (("en", "English"), ("ko", "Korean")):
        prompts = held_out_prompts(own, language)[:MEASURED]
        replies = [complete(model, tokenizer, p, TEMPERATURE, seed) for p in prompts]
        if not replies:
            continue
        ended = sum(reply.ended for reply in replies)
        lengths = sorted(reply.tokens for reply in replies)
        lines += [
            f"### {name}",
            "",
            f"{ended} of {len(replies)} replies to held-out prompts end by themselves; tokens in a"
            f" reply: {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}.",
            "",
            "| prompt | reply |",
            "|---|---|",
        ]
        lines += [f"| {_cell(r.prompt)} | {_cell(r.completion)} |" for r in replies[:SHOWN]]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _data(own: Sequence[Document], recipe: StarterRecipe) -> str:
    said, replies = (
        len({m.content for d in own for m in d.messages if m.role == role})
        for role in ("user", "assistant")
    )
    lines = [
        "## Data and attribution",
        "",
        "Snapshots of public repositories, cleaned and filtered; `epochs` are those of the mixture",
        "that each stage samples from. No output of another vendor's model was used on purpose",
        "except TinyStories, which its authors published for training models. Text under CC BY-SA",
        "is the reason for the licence of the weights.",
        "",
        "| source | file, repository on GitHub @ commit | licence | language | pretraining epochs"
        " | chat epochs |",
        "|---|---|---|---|--:|--:|",
    ]
    for source in SOURCES:
        language = {"both": "en, ko"}.get(source.language, source.language)
        place = f"`{source.file}`, {REPOSITORIES[source.file]}"
        row = (source.origin, place, source.licence, language)
        lines.append("| " + " | ".join(row) + f" | {source.pretrain:g} | {source.chat:g} |")
    lines.append(
        f"| written for this project: {said:,} things people say, {replies:,} replies |"
        f" `finetune/starter/conversations` | MIT | en, ko | 0 |"
        f" replies {recipe.own_epochs:g}, whole {recipe.own_read_epochs:g}; of further pairs"
        f" {recipe.phrasing_epochs:g} and {recipe.phrasing_read_epochs:g} |"
    )
    return "\n".join(lines) + "\n"


_NOTICES = """## Licences and notices

The weights are published under CC BY-SA 4.0: use and change them as you like, name "Attune Starter
by the Attune project" and this card, and pass on what you make of them under the same licence.

* CC BY-SA 4.0: <https://creativecommons.org/licenses/by-sa/4.0/>, of KorNLU, 3i4K and
  Schema-Guided Dialogue; CC BY-SA 3.0: <https://creativecommons.org/licenses/by-sa/3.0/>, of
  Wikipedia, whose authors are named in the history of each article.
* CC BY 4.0, 3.0 and 2.0 FR: <https://creativecommons.org/licenses/by/4.0/>,
  <https://creativecommons.org/licenses/by/3.0/>,
  <https://creativecommons.org/licenses/by/2.0/fr/>, of Taskmaster, CLINC150 (Larson et al. 2019)
  and Tatoeba, whose authors stand in the `kor.txt` of the repository named. The storybooks are
  those marked CC BY; each names its authors and illustrators in its file in the repository.
* CDLA-Sharing 1.0: <https://cdla.dev/sharing-1-0/>, of TinyStories and Topical-Chat; it asks
  nothing of what is made from the data. CC0 1.0: person-to-person chats.
* Apache 2.0: <https://www.apache.org/licenses/LICENSE-2.0>, of FairytaleQA, Self-Instruct and
  LLaMA-Factory.
* MIT, Copyright (c) 2020 CAiRE (XPersona); (c) 2024 NLPlab-skku (HG-TODS); (c) Microsoft
  Corporation (Personality Chat); songys (Chatbot_data, Question_pair). BSD 3-Clause, Copyright
  (c) 2017 (Self-dialogue corpus); (c) Gunther Cox (ChatterBot corpus). Of none of these is text
  contained here; texts of both licences: <https://opensource.org/license/mit>,
  <https://opensource.org/license/bsd-3-clause>. All of this came "as is", without warranty of
  any kind, and so does this model.

What was changed: rows were dropped by rule and cleaned (`corpus.py`), conversations cut to fit, and
the rest was learned from; none of the text itself is contained in the file.
"""

_LIMITS = """## Limits, plainly

* It chats; it knows almost nothing. Facts, arithmetic, code and advice from it are not to be
  relied on; it will make things up.
* It was made for short everyday turns of one or two sentences. Long prompts, long conversations
  and unusual topics bring sentences that are well formed and beside the point, or worse.
* It may contradict itself about what it is. It is a program and has no life, body or family.
* Its sources were filtered by a simple list of words. Something unkind can still come out. It is
  not for children without company, nor for decisions about people.
* Translation works for a few memorised short sentences at most.
* It is meant to be a seed: the thing that the app's own learning starts from.
"""
