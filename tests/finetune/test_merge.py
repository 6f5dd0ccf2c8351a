"""The merged file: what llama.cpp's quantiser makes of the sum, byte for byte, in little memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
import torch

from finetune import ggml, merge
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.recipe import Quantization
from finetune.export import compare, torch_logits, write_adapter
from finetune.generate import sample
from finetune.gguf_weights import dequantised, linear_stems, load_trunk, rows_to_gguf
from finetune.merge import write_merged
from finetune.parity import Question, answer
from finetune.policy import Policy
from finetune.quantization import FTYPES, note_on, require_quantization, tensor_types
from finetune.stage import generator_for
from finetune.vocabulary import quiet_llama_cpp
from tests import tiny_models
from tests.finetune.architecture_models import SORTS, Sort, write_gguf
from tests.finetune.test_policy import filled

ROLES = ("sft", "ppo")
MIXTURES: list[Quantization] = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]


def written(policy: Policy, base: Path, path: Path) -> Path:
    """The policy's adapters as one file."""
    write_adapter(path, read_header(base), policy.joined(ROLES), {})
    return path


@pytest.fixture
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    policy = filled(Policy(load_trunk(tiny_gguf)), *ROLES)
    return written(policy, tiny_gguf, tmp_path_factory.mktemp("adapter") / "a.gguf")


def blocks_of(path: Path) -> dict[str, tuple[str, bytes]]:
    """Tensor name -> its type and its bytes."""
    data = path.read_bytes()
    tensors = read_header(path).tensors.values()
    return {t.name: (t.type_name, data[t.offset : t.offset + t.size]) for t in tensors}


def quantised_by_llama_cpp(source: Path, target: Path, quantization: Quantization) -> None:
    quiet_llama_cpp()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[quantization]
    params.nthread = 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0


@pytest.fixture(scope="module", params=["deep", "odd rows"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen layers of 256 columns; and two whose rows are no multiple of 256, or of 32."""
    deep = tiny_models.TinyShape(width=256, layers=19, heads=4, kv_heads=2, feed_forward=256)
    odd = tiny_models.TinyShape(width=96, layers=2, heads=4, kv_heads=2, feed_forward=72)
    folder = tmp_path_factory.mktemp("bases")
    shape = deep if request.param == "deep" else odd
    return tiny_models.write_model(folder / "base.gguf", shape=shape)


@pytest.mark.parametrize("quantization", MIXTURES)
def test_it_is_what_llama_cpps_quantiser_makes_byte_for_byte(
    tmp_path: Path, base: Path, quantization: Quantization
) -> None:
    write_merged(tmp_path / "ours.gguf", base, None, quantization, {})
    quantised_by_llama_cpp(base, tmp_path / "theirs.gguf", quantization)
    ours, theirs = blocks_of(tmp_path / "ours.gguf"), blocks_of(tmp_path / "theirs.gguf")
    assert {n: kind for n, (kind, _) in ours.items()} == {n: k for n, (k, _) in theirs.items()}
    assert ours == theirs
    before, after = (read_header(tmp_path / f"{who}.gguf") for who in ("ours", "theirs"))
    assert before.metadata == after.metadata


def test_a_head_that_is_the_token_table_gets_the_bits_of_a_head(tmp_path: Path) -> None:
    shape = tiny_models.TinyShape(width=256, layers=1, heads=4, kv_heads=2, feed_forward=256)
    whole = tiny_models.write_model(tmp_path / "whole.gguf", shape=shape)
    tied = tmp_path / "tied.gguf"
    copied(whole, tied, without="output.weight")
    assert tensor_types(read_header(whole), "Q4_K_M")["token_embd.weight"] == "Q4_K"
    assert tensor_types(read_header(tied), "Q4_K_M")["token_embd.weight"] == "Q6_K"
    quantised_by_llama_cpp(tied, tmp_path / "theirs.gguf", "Q4_K_M")
    write_merged(tmp_path / "ours.gguf", tied, None, "Q4_K_M", {})
    assert blocks_of(tmp_path / "ours.gguf") == blocks_of(tmp_path / "theirs.gguf")


def copied(source: Path, target: Path, without: str = "", **zeros: Sequence[str]) -> Path:
    """A copy of a GGUF that lacks one tensor, or has zeros of another type for some."""
    other = {name: kind for kind, names in zeros.items() for name in names}
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], item)
    for one in reader.tensors:
        if one.name in other:
            kind = other[one.name]
            columns, rows = map(int, one.shape)
            empty = np.zeros((rows, ggml.row_bytes(kind, columns)), np.uint8)
            writer.add_tensor(one.name, empty, raw_dtype=gguf.GGMLQuantizationType[kind])
        elif one.name != without:
            writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    tiny_models._write(writer)
    return target


WIDE = {
    "hidden_size": 256, "intermediate_size": 256,
    "num_attention_heads": 16, "num_key_value_heads": 8,
}  # fmt: skip
WIDE_GPT2 = {"n_embd": 256, "n_inner": 256}


@pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
def test_every_architecture_is_merged_as_it_was_trained(tmp_path: Path, sort: Sort) -> None:
    """Fused matrices, re-ordered rows, norms and position tables: in llama.cpp and by its bytes."""
    wide = WIDE_GPT2 if sort.architecture == "gpt2" else WIDE
    path = write_gguf(tmp_path / "base.gguf", sort, sort.make(**wide))
    policy = filled(Policy(load_trunk(path)), *ROLES)
    adapter = written(policy, path, tmp_path / "a.gguf")
    merged = tmp_path / "merged.gguf"
    write_merged(merged, path, adapter, "BASE", {})
    sequences = (tuple(range(3, 40)),)
    with policy.merged(*ROLES):
        (completed,) = sample(
            policy, sequences, max_new_tokens=64, end_ids=(), generator=generator_for(1),
            temperature=0.0,
        )  # fmt: skip
    theirs = answer(Question(merged, None, (), sequences, greedy_tokens=64))
    assert theirs.greedy == (completed.ids,)
    assert compare(torch_logits(policy, sequences, *ROLES), theirs.logits).kl < 1e-5
    for quantization in ("Q4_K_M", "Q5_K_M"):
        quantised_by_llama_cpp(merged, tmp_path / "theirs.gguf", quantization)
        write_merged(tmp_path / "ours.gguf", path, adapter, quantization, {})
        assert blocks_of(tmp_path / "ours.gguf") == blocks_of(tmp_path / "theirs.gguf")


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_every_tensor_is_the_base_with_the_update_added(tmp_path: Path, kind: str) -> None:
    path = tiny_models.write_model(tmp_path / "base.gguf", quantization=kind)
    policy = filled(Policy(load_trunk(path)), *ROLES)
    weights = policy.joined(ROLES)
    write_merged(tmp_path / "m.gguf", path, written(policy, path, tmp_path / "a.gguf"), "F16", {})
    before, after = read_header(path), read_header(tmp_path / "m.gguf")
    modules = {f"{stem}.weight": module for module, stem in linear_stems(before).items()}
    changed = 0
    for name, info in before.tensors.items():
        wanted = dequantised(path, info).astype(np.float64)
        if name in modules:
            a, b = weights[modules[name]]
            delta = (b.double() @ a.double()).numpy()
            wanted = wanted + rows_to_gguf(before, name.removesuffix(".weight"), delta)
            changed += 1
        found = dequantised(tmp_path / "m.gguf", after.tensors[name])
        np.testing.assert_allclose(found, wanted, rtol=6e-4, atol=1e-6)
    assert changed == len(weights) > 0


def test_adapters_joined_by_rank_are_the_merged_weights(tmp_path: Path, tiny_gguf: Path) -> None:
    """[s1 B1, s2 B2] [A1; A2] on the base, in float32, is the trunk with both added."""
    policy = filled(Policy(load_trunk(tiny_gguf)), *ROLES)
    adapter = written(policy, tiny_gguf, tmp_path / "a.gguf")
    write_merged(tmp_path / "m.gguf", tiny_gguf, adapter, "BASE", {})
    merged = load_trunk(tmp_path / "m.gguf").state_dict()
    for path, layer in policy.layers.items():
        difference = merged[f"{path}.weight"] - layer.sum_of(ROLES)
        assert difference.abs().max() < 1e-5, path


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q5_K_M", "Q4_K_M"])
def test_base_keeps_the_type_of_every_tensor(tmp_path: Path, kind: Any) -> None:
    shape = tiny_models.TinyShape(width=256, layers=2, heads=4, kv_heads=2, feed_forward=256)
    plain = tiny_models.write_model(tmp_path / "plain.gguf", shape=shape)
    path = plain
    if kind != "F32":
        path = tmp_path / "base.gguf"
        write_merged(path, plain, None, kind, {})
    policy = filled(Policy(load_trunk(path)), *ROLES)
    adapter = written(policy, path, tmp_path / "a.gguf")
    write_merged(tmp_path / "m.gguf", path, adapter, "BASE", {})
    before, after = blocks_of(path), blocks_of(tmp_path / "m.gguf")
    assert {n: k for n, (k, _) in before.items()} == {n: k for n, (k, _) in after.items()}
    adapted = {f"{stem}.weight" for stem in linear_stems(read_header(path)).values()}
    for name, stored in before.items():
        assert (after[name] == stored) == (name not in adapted), name


def test_metadata_is_carried_over_key_by_key_and_provenance_is_added(
    tmp_path: Path, tiny_gguf: Path, adapter: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_merged(path, tiny_gguf, adapter, "F16", {"run_id": "r", "parent": "", "steps": 3})
    before, after = gguf.GGUFReader(tiny_gguf).fields, gguf.GGUFReader(path).fields
    for key, field in before.items():
        if not key.startswith("GGUF."):
            assert after[key].types == field.types, key
            assert after[key].contents() == field.contents(), key
    added = {k: f.contents() for k, f in after.items() if k not in before}
    assert added == {
        "attune.run_id": "r",
        "attune.parent": "",
        "attune.steps": 3,
        "general.quantization_version": 2,
        "general.file_type": 1,
    }
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_a_merged_model_can_be_a_base_again_and_says_its_newest_origin(
    tmp_path: Path, tiny_gguf: Path, adapter: Path
) -> None:
    first, second = tmp_path / "1.gguf", tmp_path / "2.gguf"
    write_merged(first, tiny_gguf, adapter, "Q8_0", {"run_id": "first", "x": 0.5})
    write_merged(second, first, adapter, "F16", {"run_id": "second"})
    found = read_header(second).metadata
    assert (found["attune.run_id"], found["attune.x"]) == ("second", 0.5)
    assert found["general.file_type"] == 1


def test_threads_change_no_byte(
    tmp_path: Path, tiny_gguf: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "PIECE", 500)  # many pieces of each tensor
    kind: Quantization
    for kind in ("Q8_0", "BASE"):
        for threads in (1, 3):
            path = tmp_path / f"{kind}{threads}.gguf"
            write_merged(path, tiny_gguf, adapter, kind, {}, threads)
        one, three = ((tmp_path / f"{kind}{n}.gguf").read_bytes() for n in (1, 3))
        assert one == three


def test_what_is_no_sound_adapter_of_this_model_is_refused(tmp_path: Path, tiny_gguf: Path) -> None:
    policy = filled(Policy(load_trunk(tiny_gguf)), *ROLES)
    (tmp_path / "out").mkdir()
    wide = tiny_models.TinyShape(width=128)
    deep = tiny_models.TinyShape(layers=3)
    with torch.no_grad():
        next(iter(policy.layers.values())).b["ppo"].fill_(float("nan"))
    for broken, says in (
        (written(policy, tiny_gguf, tmp_path / "nan.gguf"), "not finite"),
        (tiny_models.write_adapter(tmp_path / "wide.gguf", shape=wide), "another model"),
        (tiny_models.write_adapter(tmp_path / "deep.gguf", shape=deep), "another model"),
        (tiny_gguf, "not a LoRA adapter"),
    ):
        with pytest.raises(InputError, match=says):
            write_merged(tmp_path / "out" / "m.gguf", tiny_gguf, broken, "F16", {})
    assert not list((tmp_path / "out").iterdir())


def test_a_type_that_can_only_be_read_is_written_in_another(tmp_path: Path) -> None:
    shape = tiny_models.TinyShape(width=256, layers=1, heads=4, kv_heads=2, feed_forward=256)
    path = tiny_models.write_model(tmp_path / "base.gguf", shape=shape)
    adapter = tiny_models.write_adapter(tmp_path / "a.gguf", shape=shape)
    changed, other = "blk.0.ffn_up.weight", "token_embd.weight"
    rare = copied(path, tmp_path / "rare.gguf", IQ2_XS=(changed, other))
    note = note_on(read_header(rare), "BASE", [changed])
    assert note is not None
    assert "IQ2_XS can be read but not written" in note
    assert note_on(read_header(rare), "Q8_0", [changed]) is None
    write_merged(tmp_path / "m.gguf", rare, adapter, "BASE", {})
    types = {name: kind for name, (kind, _) in blocks_of(tmp_path / "m.gguf").items()}
    assert (types[changed], types[other], types["output.weight"]) == ("Q4_K", "IQ2_XS", "F32")
    assert answer(Question(tmp_path / "m.gguf", None, (), ((3, 4, 5),))).logits


def test_a_type_that_cannot_even_be_read_is_copied_or_refused(tmp_path: Path) -> None:
    name = "blk.0.ffn_up.weight"
    path = tiny_models.write_model(tmp_path / "base.gguf")
    odd = read_header(copied(path, tmp_path / "odd.gguf", Q8_1=(name,)))
    assert tensor_types(odd, "BASE")[name] == "Q8_1"
    for wanted in ("BASE", "F16"):
        with pytest.raises(InputError, match="Q8_1"):
            tensor_types(odd, require_quantization(wanted), [name])


def test_alpha_is_part_of_the_scale(tmp_path: Path, tiny_gguf: Path) -> None:
    """alpha / rank, as llama.cpp scales an adapter of other programs."""
    for alpha in (4.0, 8.0):
        path = tiny_models.write_adapter(tmp_path / "a.gguf", rank=4, alpha=alpha)
        write_merged(tmp_path / f"{alpha}.gguf", tiny_gguf, path, "BASE", {})
    base, once, twice = (
        dequantised(path, read_header(path).tensors["blk.1.ffn_down.weight"])
        for path in (tiny_gguf, tmp_path / "4.0.gguf", tmp_path / "8.0.gguf")
    )
    np.testing.assert_allclose(twice - base, 2 * (once - base), atol=1e-6)


def test_a_full_disk_is_said_at_once_and_leaves_nothing(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("finetune.merge.shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(OSError, match="needs"):
        write_merged(tmp_path / "m.gguf", tiny_gguf, None, "F16", {})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_half_way_leaves_nothing(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml, "to_blocks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_merged(tmp_path / "m.gguf", tiny_gguf, None, "F16", {})
    assert not list(tmp_path.iterdir())


def test_names_of_quantisations_are_checked() -> None:
    assert require_quantization("q4_k_m") == "Q4_K_M"
    assert require_quantization("base") == "BASE"
    with pytest.raises(InputError, match="Q9"):
        require_quantization("Q9")


MEASURE = """
import resource, sys
from pathlib import Path
from finetune.merge import write_merged
source, target, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_merged(target, source, None, kind, {}, threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts kilobytes as Linux does")
def test_memory_stays_far_below_the_largest_tensor(repository: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_block_count(0)
    table = np.zeros((200_000, 512), np.float16)  # 205 MB, and 410 MB as float32
    table[::1000] = 1.0
    writer.add_tensor("token_embd.weight", table)
    tiny_models._write(writer)
    del table
    for kind in ("Q6_K", "BASE"):
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, tmp_path / "large.gguf", tmp_path / "m.gguf", kind],
            cwd=repository, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(result.stdout) < 100_000, f"{kind}: {result.stdout} kB more"
