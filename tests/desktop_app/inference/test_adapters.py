"""Adapters: switched and scaled for each stream, and refused where they do not fit."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from desktop_app.inference.engine import AdapterRef, EngineFailure, ModelReady, ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.contract.manifest import file_sha256
from tests.desktop_app.inference.asking import ask, begin_alike
from tests.tiny_models import TinyShape, write_adapter


def ref(path: Path, scale: float = 1.0) -> AdapterRef:
    return AdapterRef(str(path), file_sha256(path), scale)


def test_an_adapter_changes_the_text_and_the_base_comes_back_exactly(
    engine: LlamaEngine, adapter: AdapterRef
) -> None:
    base = ask(engine, "Hello").text
    tuned = ask(engine, "Hello", adapters=[adapter]).text
    assert tuned != base
    assert ask(engine, "Hello").text == base
    assert ask(engine, "Hello", adapters=[adapter]).text == tuned


def test_scale_zero_is_exactly_the_base_and_scales_differ(
    engine: LlamaEngine, adapter_file: Path
) -> None:
    texts = {
        scale: ask(engine, "Hello", adapters=[ref(adapter_file, scale)]).text
        for scale in (0.0, 0.5, 1.0)
    }
    assert texts[0.0] == ask(engine, "Hello").text
    assert len(set(texts.values())) == 3


def test_base_and_tuned_side_by_side_equal_their_single_runs(
    engine: LlamaEngine, adapter: AdapterRef
) -> None:
    both = ask(engine, "Hello", seeds=[1, 1, 2, 2], adapters=[None, adapter, None, adapter])
    alone = [
        ask(engine, "Hello", seeds=[seed], adapters=[which]).text
        for seed in (1, 2)
        for which in (None, adapter)
    ]
    assert begin_alike(both.texts, alone)
    assert len(set(both.texts)) == 4


def test_the_origin_names_the_files_and_settings_that_made_the_text(
    engine: LlamaEngine, model: ModelRef, adapter_file: Path
) -> None:
    adapter = ref(adapter_file, 0.75)
    answer = ask(engine, "Hello", seeds=[5, 6], adapters=[None, adapter], temperature=0.5)
    plain, tuned = (answer.streams[i].origin for i in (0, 1))
    assert plain.model_sha256 == tuned.model_sha256 == model.sha256
    assert (plain.adapter_sha256, plain.adapter_scale) == (None, 0.0)
    assert (tuned.adapter_sha256, tuned.adapter_scale) == (adapter.sha256, 0.75)
    assert (plain.model_version, tuned.model_version) == ("version-0", "version-1")
    assert tuned.sampling["seed"] == 6
    assert tuned.sampling["temperature"] == 0.5
    assert len(tuned.template_id) == 64


def test_loading_another_adapter_on_the_same_file_does_not_load_the_file_again(
    engine: LlamaEngine, model: ModelRef, adapter: AdapterRef
) -> None:
    events = list(engine.load(ModelRef("tuned", model.path, model.sha256, adapter)))
    assert len(events) == 1
    assert isinstance(events[0], ModelReady)
    assert events[0].version_id == "tuned"


def test_more_adapters_than_are_held_at_once(engine: LlamaEngine, tmp_path: Path) -> None:
    refs = [ref(write_adapter(tmp_path / f"{i}.gguf", seed=i)) for i in range(9)]
    texts = [ask(engine, "Hello", adapters=[adapter]).text for adapter in refs]
    assert len(set(texts)) == 9
    assert [ask(engine, "Hello", adapters=[adapter]).text for adapter in refs] == texts


# --- bad ones --------------------------------------------------------------------------------


def _other_width(path: Path) -> None:
    write_adapter(path, shape=TinyShape(width=32, heads=2))


def _more_layers(path: Path) -> None:
    write_adapter(path, shape=TinyShape(layers=3))


def _other_architecture(path: Path) -> None:
    write_adapter(path, architecture="qwen2")


def _truncated(path: Path) -> None:
    raw = write_adapter(path).read_bytes()
    path.write_bytes(raw[:-1000])


def _text(path: Path) -> None:
    path.write_text("not a model " * 10)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nothing_in_it(path: Path) -> None:
    write_adapter(path, names=[])


def _alpha(value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_adapter(path, alpha=value)

    make.__name__ = f"alpha {value}"
    return make


def _one_half(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _foreign_tensor(path: Path) -> None:
    raw = write_adapter(path).read_bytes()
    path.write_bytes(raw.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))


def _wrong_suffix(path: Path) -> None:
    raw = write_adapter(path).read_bytes()
    path.write_bytes(raw.replace(b"attn_q.weight.lora_a", b"attn_q.weight.lora_c"))


def _other_adapter_type(path: Path) -> None:
    raw = write_adapter(path).read_bytes()
    old = struct.pack("<Q", 4) + b"lora"
    assert old in raw
    path.write_bytes(raw.replace(old, struct.pack("<Q", 4) + b"dora"))


BAD = [
    _other_width, _more_layers, _other_architecture, _truncated, _text, _empty, _nothing_in_it,
    _alpha(0.0), _alpha(float("nan")), _one_half, _foreign_tensor, _wrong_suffix,
    _other_adapter_type,
]  # fmt: skip


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_adapter_is_a_sentence_and_the_base_keeps_working(
    engine: LlamaEngine, model: ModelRef, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "bad.gguf"
    make(path)
    before = ask(engine, "Hello").text
    failure = ask(engine, "Hello", adapters=[ref(path)]).failure
    assert failure is not None
    assert "bad.gguf" in failure.message
    assert failure.request_id == "r"
    loading = list(engine.load(ModelRef("v", model.path, model.sha256, ref(path))))[-1]
    assert isinstance(loading, EngineFailure)
    assert ask(engine, "Hello").text == before


def test_a_model_and_a_missing_file_are_no_adapters(
    engine: LlamaEngine, model_file: Path, tmp_path: Path
) -> None:
    assert ask(engine, "Hello", adapters=[ref(model_file)]).failure
    missing = AdapterRef(str(tmp_path / "none.gguf"), "ab")
    assert ask(engine, "Hello", adapters=[missing]).failure


def test_changed_weights_are_noticed_by_the_hash(
    engine: LlamaEngine, adapter_file: Path, tmp_path: Path
) -> None:
    raw = bytearray(adapter_file.read_bytes())
    raw[-100] ^= 1
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(raw)
    failure = ask(
        engine, "Hello", adapters=[AdapterRef(str(changed), file_sha256(adapter_file))]
    ).failure
    assert failure is not None
    assert "damaged" in failure.message
