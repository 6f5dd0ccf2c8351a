"""Sound files are read, and each kind of structural damage is a sentence, fast."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from finetune.contract.chat_template import CHATML
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, read_header
from tests.tiny_models import TinyShape, sentencepiece_vocabulary, write_adapter, write_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gguf") / "sound.gguf")


# --- sound files -----------------------------------------------------------------------------


def test_a_sound_file_is_read_as_gguf_reads_it(sound: Path) -> None:
    header = read_header(sound)
    theirs = gguf.GGUFReader(sound)
    assert header.version == 3
    assert header.file_size == sound.stat().st_size
    assert set(header.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(int(length) for length in tensor.shape)
        assert ours.type_name == tensor.tensor_type.name
        assert (ours.offset, ours.size) == (tensor.data_offset, tensor.n_bytes)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert header.metadata[key] == field.contents()


def test_what_a_model_and_an_adapter_say_of_themselves(sound: Path, tmp_path: Path) -> None:
    model = read_header(sound)
    assert model.architecture == "llama"
    assert not model.is_adapter
    assert model.chat_template == CHATML
    assert model.hyperparameter("embedding_length") == TinyShape().width
    assert model.hyperparameter("nothing", 7) == 7
    adapter = read_header(write_adapter(tmp_path / "adapter.gguf"))
    assert adapter.is_adapter
    assert adapter.chat_template is None
    assert adapter.metadata["adapter.lora.alpha"] == 8.0


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0"])
def test_quantized_tensors_have_the_sizes_gguf_gives_them(
    tmp_path: Path, quantization: str
) -> None:
    path = write_model(tmp_path / "m.gguf", quantization=quantization)
    tensors = read_header(path).tensors
    assert tensors["output.weight"].type_name == quantization
    for tensor in gguf.GGUFReader(path).tensors:
        assert tensors[tensor.name].size == tensor.n_bytes


def test_a_sentencepiece_vocabulary_and_an_empty_template(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "m.gguf",
        vocabulary=sentencepiece_vocabulary(),
        end_of_turn="</s>",
        template=" \n",
    )
    header = read_header(path)
    assert header.metadata["tokenizer.ggml.tokens"][5] == "<0x02>"
    assert header.chat_template is None


def test_our_table_of_tensor_types_is_ggufs() -> None:
    from finetune.contract.gguf_file import TENSOR_TYPES

    for kind in gguf.GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        assert TENSOR_TYPES[kind.value] == (kind.name, block, size)


def test_the_shared_models_are_read_and_their_bad_ones_refused(shared_models: Path) -> None:
    good = sorted(shared_models.glob("*.gguf"))
    bad = sorted((shared_models / "must_be_refused").iterdir())
    assert good
    assert bad
    for path in good:
        assert read_header(path).architecture == "llama"
    reasons = set()
    for path in bad:
        with pytest.raises(InputError, match=path.name) as caught:
            read_header(path)
        reasons.add(str(caught.value).replace(path.name, ""))
    assert len(reasons) == len(bad)


# --- no GGUF at all --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "a few bytes"),
        (b"GGUF\3\0", "a few bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
        (b"PK\3\4" + bytes(100), "zip archive"),
        (b"  <!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\x80\x02}q\x00" + bytes(100), "letters GGUF"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version 1 "),
        (b"GGUF" + struct.pack("<I", 99) + bytes(100), "version 99 "),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 1) + bytes(100), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**63) + bytes(100), "metadata entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "architecture"),
    ],
)
def test_what_is_no_gguf_is_refused_by_its_kind(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=reason):
        read_header(path)


def test_what_cannot_be_opened_is_refused(tmp_path: Path, sound: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(InputError, match="not a file"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_header(sound / "inside a file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a file"):
            read_header(tmp_path / "pipe")


# --- one field at a time ---------------------------------------------------------------------


class Maker:
    """Writes a GGUF by hand, so that one thing in it can be wrong."""

    def __init__(self) -> None:
        self.entries: list[bytes] = [self.entry("general.architecture", "llama")]
        self.rows: list[bytes] = []
        self.data = bytes(256)

    @staticmethod
    def text(value: str | bytes) -> bytes:
        raw = value if isinstance(value, bytes) else value.encode()
        return struct.pack("<Q", len(raw)) + raw

    @classmethod
    def entry(cls, key: str, value: str | bytes | int) -> bytes:
        if isinstance(value, int):
            return cls.text(key) + struct.pack("<II", 4, value)
        return cls.text(key) + struct.pack("<I", 8) + cls.text(value)

    def row(self, name: str, shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> None:
        self.rows.append(
            self.text(name)
            + struct.pack("<I", len(shape))
            + struct.pack(f"<{len(shape)}Q", *shape)
            + struct.pack("<IQ", kind, offset)
        )

    def write(self, path: Path) -> None:
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.rows), len(self.entries))
        raw = head + b"".join(self.entries) + b"".join(self.rows)
        path.write_bytes(raw + bytes(-len(raw) % 32) + self.data)


def _value(kind: int, raw: bytes) -> Callable[[Maker], None]:
    def change(maker: Maker) -> None:
        maker.entries.append(maker.text("key") + struct.pack("<I", kind) + raw)

    return change


def _rows(*rows: tuple[str, tuple[int, ...], int, int]) -> Callable[[Maker], None]:
    def change(maker: Maker) -> None:
        for row in rows:
            maker.row(*row)

    return change


def _entries(*entries: tuple[str, str | bytes | int]) -> Callable[[Maker], None]:
    def change(maker: Maker) -> None:
        maker.entries.extend(maker.entry(key, value) for key, value in entries)

    return change


def _nested(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQB", 0, 1, 7)


DAMAGE: dict[str, tuple[Callable[[Maker], None], str]] = {
    "a key twice": (_entries(("a", 1), ("a", 2)), "twice"),
    "an empty key": (_entries(("", 1)), "empty"),
    "a text that is not UTF-8": (_entries(("a", b"\xff\xfe")), "UTF-8"),
    "a huge text": (_value(8, struct.pack("<Q", 2**62)), "claims"),
    "a text past the end": (_value(8, struct.pack("<Q", 10**6)), "middle of its header"),
    "an unknown type": (_value(13, bytes(8)), "unknown type 13"),
    "a huge list": (_value(9, struct.pack("<IQ", 4, 2**60)), "claims"),
    "a list past the end": (_value(9, struct.pack("<IQ", 12, 10**6)), "middle of its header"),
    "a list of an unknown type": (_value(9, struct.pack("<IQ", 99, 3)), "unknown type 99"),
    "lists in lists in lists": (_value(9, _nested(5)), "nested"),
    "an alignment of 0": (_entries(("general.alignment", 0)), "alignment"),
    "an alignment of 24": (_entries(("general.alignment", 24)), "alignment"),
    "an alignment that is text": (_entries(("general.alignment", "32")), "alignment"),
    "a tensor twice": (_rows(("t", (8,), 0, 0), ("t", (8,), 0, 32)), "twice"),
    "a tensor without a name": (_rows(("", (8,), 0, 0)), "no name"),
    "no dimensions": (_rows(("t", (), 0, 0)), "0 dimensions"),
    "nine dimensions": (_rows(("t", (1,) * 9, 0, 0)), "9 dimensions"),
    "a length of 0": (_rows(("t", (8, 0), 0, 0)), "impossible shape"),
    "a product over 64 bits": (_rows(("t", (2**32, 2**32), 0, 0)), "impossible shape"),
    "a product that wraps to 0": (_rows(("t", (2**63, 2), 0, 0)), "impossible shape"),
    "half a block": (_rows(("t", (33,), 8, 0)), "impossible shape"),
    "an unknown tensor type": (_rows(("t", (8,), 999, 0)), "unknown type 999"),
    "a removed tensor type": (_rows(("t", (32,), 4, 0)), "unknown type 4"),
    "an odd offset": (_rows(("t", (8,), 0, 7)), "odd place"),
    "overlapping tensors": (_rows(("a", (16,), 0, 0), ("b", (8,), 0, 32)), "overlaps"),
    "data past the end": (_rows(("t", (8,), 0, 4096)), "end is missing"),
    "an offset near 2**64": (_rows(("t", (8,), 0, 2**64 - 32)), "end is missing"),
}


def test_what_the_maker_makes_is_sound_before_it_is_damaged(tmp_path: Path) -> None:
    maker = Maker()
    _rows(("a", (8,), 0, 0), ("b", (4, 2), 0, 32), ("c", (32,), 8, 64))(maker)
    _value(9, _nested(1))(maker)
    _entries(("general.alignment", 32))(maker)
    maker.write(tmp_path / "m.gguf")
    header = read_header(tmp_path / "m.gguf")
    assert [tensor.size for tensor in header.tensors.values()] == [32, 32, 34]


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_kind_of_damage_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    maker = Maker()
    damage(maker)
    maker.write(tmp_path / "m.gguf")
    with pytest.raises(InputError, match=reason) as caught:
        read_header(tmp_path / "m.gguf")
    assert "m.gguf is not a usable GGUF model" in str(caught.value)


def test_an_architecture_that_is_no_text_is_refused(tmp_path: Path) -> None:
    maker = Maker()
    maker.entries = [maker.entry("general.architecture", 7)]
    maker.write(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="architecture"):
        read_header(tmp_path / "m.gguf")


# --- a real file, damaged at random ------------------------------------------------------------


def test_a_file_cut_off_anywhere_is_refused(sound: Path, tmp_path: Path) -> None:
    raw = sound.read_bytes()
    dice = random.Random(1)
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 200, 7), *(dice.randrange(len(raw)) for _ in range(60))]:
        path.write_bytes(raw[:length])
        with pytest.raises(InputError):
            read_header(path)


def test_five_hundred_mutants_are_read_or_refused_and_never_anything_else(
    sound: Path, tmp_path: Path
) -> None:
    raw = sound.read_bytes()
    header_size = min(tensor.offset for tensor in read_header(sound).tensors.values())
    dice = random.Random(2)
    path = tmp_path / "mutant.gguf"
    boundaries = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
    refusals = []
    slowest = 0.0
    for number in range(500):
        mutant = bytearray(raw)
        if number % 2:
            at = dice.randrange(4, header_size - 8)
            mutant[at : at + 8] = struct.pack("<Q", dice.choice(boundaries))
        else:
            for _ in range(dice.randrange(1, 4)):
                mutant[dice.randrange(header_size)] ^= 1 << dice.randrange(8)
        path.write_bytes(mutant)
        began = time.process_time()
        try:
            assert isinstance(read_header(path), GgufHeader)
        except InputError as error:
            refusals.append(str(error))
        slowest = max(slowest, time.process_time() - began)
    assert len(refusals) > 100
    assert max(map(len, refusals)) < 400
    assert slowest < 1


def test_the_header_of_a_large_vocabulary_is_read_within_a_second(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    writer.add_token_list([f"token {i} 한" for i in range(150_000)])
    writer.add_token_types([1] * 150_000)
    writer.add_tensor("t", np.zeros(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    began = time.process_time()
    assert len(read_header(tmp_path / "large.gguf").metadata["tokenizer.ggml.tokens"]) == 150_000
    assert time.process_time() - began < 1
