"""The whole command on a handful of sentences: both stages, a file, a card; stopped and resumed."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
from pathlib import Path
from xml.etree import ElementTree

import gguf
import pytest
import torch

from finetune.starter import card, main
from finetune.starter.card import held_out_prompts
from finetune.starter.corpus import SOURCES, Document, Source
from finetune.starter.main import add_arguments, run, train
from finetune.starter.model import StarterModel
from finetune.starter.optimizer import MuonWithAdam
from finetune.starter.pretrain import Progress, Stop, save_checkpoint, summed_loss
from finetune.starter.recipe import StarterRecipe
from finetune.starter.tokenizer import Message

TINY = StarterRecipe(
    vocabulary=400,
    width=64,
    layers=1,
    heads=1,
    feed_forward=64,
    context=64,
    minutes=0.001,
    tokens_per_step=128,
    rows_per_pass=2,
    row_length=32,
    long_row_length=64,
    chat_row_length=64,
    warmup_steps=1,
    evaluate_every=5,
    evaluate_tokens=64,
    checkpoint_every=5,
    own_epochs=1.0,
)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, own = tmp_path / "data", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    with gzip.open(folder / "prose.jsonl.gz", "wt", encoding="utf-8") as file:
        for n in range(300):
            file.write(
                json.dumps({"text": f"The cat number {n} sat. 고양이 {n}마리가 앉았다."}) + "\n"
            )
    chats = [f"U: 안녕 {n}\nA: 안녕하세요 {n}!\n\nU: Hi {n}\nA: Hello {n}!\n" for n in range(150)]
    (own / "chats.txt").write_text("\n".join(chats), encoding="utf-8")
    sources = (Source("prose", "prose", "en", 1.0, 0, "MIT", "this test"),)
    monkeypatch.setattr(main, "SOURCES", sources)
    monkeypatch.setattr(main, "CONVERSATIONS", own)
    monkeypatch.setattr(card, "MOST_TOKENS", 5)
    return folder


class StopAfter(Stop):
    """Wants to stop once it was asked ``times`` times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_stopped_training_goes_on_to_a_file_and_its_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, output = tmp_path / "work", tmp_path / "out" / "tiny.gguf"
    work.mkdir()
    assert train(TINY, data, work, output, StopAfter(4), summed_loss) == 3
    assert not output.exists()
    assert train(TINY, data, work, output, StopAfter(9999), summed_loss) == 0
    fields = gguf.GGUFReader(output).fields
    assert fields["general.architecture"].contents() == "llama"
    written = (output.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in written
    assert "written for this project: 300 things people say, 300 replies" in written
    assert "replies to held-out prompts end by themselves" in written
    assert "(curves.svg)" in written
    picture = ElementTree.parse(output.parent / "curves.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    said = [text.text for text in picture.iter(f"{svg}text")]
    assert {"training loss, nats a token", "our replies ko", "pretraining en"} <= {*said}
    corners = [line.get("points", "").split() for line in picture.iter(f"{svg}polyline")]
    assert len(corners[0]) > 4  # the loss itself
    (main.CONVERSATIONS / "more.txt").write_text("U: New\nA: And learned by nobody.\n", "utf-8")
    with pytest.raises(ValueError, match=r"Delete corpus-chat\.safetensors"):
        main._same_reading(work / "corpus-chat.safetensors", "chat")
    main._same_reading(work / "corpus-pretrain.safetensors", "pretrain")
    with monkeypatch.context() as changed:
        changed.setattr(main, "SOURCES", SOURCES[1:])
        with pytest.raises(ValueError, match=r"Delete corpus-pretrain\.safetensors"):
            main._same_reading(work / "corpus-pretrain.safetensors", "pretrain")
    log = [json.loads(line) for line in (work / "log.jsonl").read_text("utf-8").splitlines()]
    assert log[-1]["blended"] == TINY.chat_weight
    steps = [(entry["stage"], entry["step"]) for entry in log[:-1]]
    assert len(steps) == len(set(steps)), "no step may be taken twice"
    assert log[-1]["stage"] == "chat"
    assert log[-1]["held_out/chat_own_ko"] < log[0]["loss"]


def test_the_finished_weights_lie_between_those_before_and_after_chat_tuning(
    tmp_path: Path,
) -> None:
    before, after = StarterModel(TINY.shape, 1), StarterModel(TINY.shape, 2)
    optimizer = MuonWithAdam(before, 0.9, 0.0)
    save_checkpoint(tmp_path / "before.safetensors", before, optimizer, Progress())
    first, last = before.embed_tokens.weight, after.embed_tokens.weight.clone()
    main.blend(after, tmp_path / "before.safetensors", 0.75)
    wanted = 0.75 * last + 0.25 * first
    torch.testing.assert_close(after.embed_tokens.weight, wanted, atol=1e-7, rtol=0)


def test_a_work_folder_keeps_to_its_recipe(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    other = json.loads(StarterRecipe().to_json()) | {"layers": 99}
    (work / "recipe.json").write_text(json.dumps(other), encoding="utf-8")
    words = ["--data", str(tmp_path), "--work", str(work), "--output", "x.gguf"]
    with pytest.raises(ValueError, match=r"another recipe \(layers differ\)"):
        run(arguments(*words))


def test_other_minutes_are_taken_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    main._same_recipe(path, TINY)
    longer = dataclasses.replace(TINY, minutes=7.0)
    main._same_recipe(path, longer)
    assert path.read_text(encoding="utf-8") == longer.to_json()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "/nowhere", "--work", "w", "--output", "x.gguf"], "There is no data folder"),
        (["--data", ".", "--work", "w", "--output", "x.bin"], r"ends in \.gguf"),
        (["--data", ".", "--work", "w", "--output", "x.gguf", "--minutes", "0"], "more than zero"),
    ],
)
def test_wrong_use_is_said_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(arguments(*words))


def test_sample_prompts_are_held_out_ones_in_an_order_nobody_chose() -> None:
    def document(text: str, held_out: bool) -> Document:
        return Document("conversations", "en", held_out, messages=(Message("user", text),))

    documents = [document(f"q{n}", n % 2 == 0) for n in range(10)]
    prompts = held_out_prompts(documents, "en")
    assert sorted(prompts) == ["q0", "q2", "q4", "q6", "q8"]
    assert prompts == held_out_prompts(documents[::-1], "en")


def test_the_larger_shape_for_a_gpu_still_ships() -> None:
    recipe = StarterRecipe.for_gpu()
    assert recipe.shape.head_size == 64
    weights = sum(p.numel() for p in StarterModel(recipe.shape).parameters())
    assert weights * 34 / 32 < 40e6, "bytes of Q8_0"
