"""TensorBoard's file format: read back by a reader written from its specification alone."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from finetune.contract import events
from finetune.tensorboard_file import FOLDER, TensorBoardFile, crc32c


@pytest.mark.parametrize(
    ("data", "value"),
    [  # RFC 3720, B.4, and the check value every catalogue of CRCs gives
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_the_checksum_is_castagnolis(data: bytes, value: int) -> None:
    assert crc32c(data) == value


def bitwise_crc(data: bytes) -> int:
    """The same by the definition: a division of polynomials, bit for bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = bitwise_crc(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % (1 << 32)


def records(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,), (first,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert first == masked(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[:4])[0] == masked(body)
        found.append(body)
        data = data[4:]
    return found


def fields(data: bytes) -> list[tuple[int, Any]]:
    """A protocol buffer's (number, value) pairs."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    found: list[tuple[int, Any]] = []
    at = 0
    while at < len(data):
        key, at = varint(at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(at)
            found.append((number, value))
        elif wire == 2:
            length, at = varint(at)
            found.append((number, data[at : at + length]))
            at += length
        else:
            width, code = {1: (8, "<d"), 5: (4, "<f")}[wire]
            found.append((number, struct.unpack(code, data[at : at + width])[0]))
            at += width
    return found


def written(folder: Path, *given: events.Event) -> list[dict[int, Any]]:
    file = TensorBoardFile(folder)
    for event in given:
        file.add(event)
    file.close()
    (path,) = (folder / FOLDER).iterdir()
    assert ".tfevents." in path.name
    return [dict(fields(body)) for body in records(path.read_bytes())]


def test_steps_become_curves(tmp_path: Path) -> None:
    first, step, done = written(
        tmp_path,
        events.StepDone("ppo", 300, 400, {"kl": 0.25, "score": -1.5}, 12.5),
        events.StageDone("sft", {"loss": 2.0}),
    )
    assert first[3] == b"brain.Event:2"
    assert step[2] == 300
    values = [dict(fields(value)) for _, value in fields(step[5])]
    assert [(v[1], v[2]) for v in values] == [
        (b"ppo/kl", 0.25), (b"ppo/score", -1.5), (b"ppo/seconds_left", 12.5),
    ]  # fmt: skip
    (value,) = [dict(fields(value)) for _, value in fields(done[5])]
    assert (value[1], value[2]) == (b"sft/result/loss", 2.0)


def test_samples_become_texts(tmp_path: Path) -> None:
    _, sample = written(tmp_path, events.Sample("안녕?", "before", "after 🙂"), events.Note("no."))
    (value,) = [dict(fields(value)) for _, value in fields(sample[5])]
    assert value[1] == b"samples"
    assert fields(dict(fields(value[9]))[1]) == [(1, b"text")]
    tensor = dict(fields(value[8]))
    assert tensor[1] == 7
    assert tensor[8].decode("utf-8") == "**안녕?**\n\nbefore: before\n\nafter: after 🙂"


def test_a_step_without_figures_is_no_record(tmp_path: Path) -> None:
    assert len(written(tmp_path, events.StepDone("sft", 1, 2), events.StageStarted("sft", 2))) == 1
