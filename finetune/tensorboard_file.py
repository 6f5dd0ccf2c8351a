"""A run's events as a TensorBoard file: the curves and samples in ``tensorboard --logdir``.

Written here, since the format is small and a dependency is not: a file is a sequence of records

    length (8 bytes) | masked CRC-32C of it (4) | an Event (protocol buffers) | its CRC (4)

(TensorFlow, core/lib/io/record_writer.h, core/util/event.proto and core/framework/summary.proto).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from finetune.contract import events
from finetune.contract.events import Event

FOLDER: Final = "tensorboard"
"""In the run folder."""
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types
_STRING_TENSOR: Final = 7  # DT_STRING


class TensorBoardFile:
    """One file for one process; a resumed run adds another, as TensorBoard expects."""

    def __init__(self, run_dir: Path) -> None:
        folder = run_dir / FOLDER
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._samples = 0
        self._write(_field(3, b"brain.Event:2"))

    def add(self, event: Event) -> None:
        """Keep what can be drawn: metrics of steps and stages, and samples."""
        match event:
            case events.StepDone():
                values = [_scalar(f"{event.stage}/{n}", v) for n, v in event.metrics.items()]
                if event.seconds_left is not None:
                    values.append(_scalar(f"{event.stage}/seconds_left", event.seconds_left))
                self._summary(event.step, values)
            case events.StageDone():
                whole = [_scalar(f"{event.stage}/result/{n}", v) for n, v in event.metrics.items()]
                self._summary(0, whole)
            case events.Sample():
                shown = f"**{event.prompt}**\n\nbefore: {event.before}\n\nafter: {event.after}"
                self._summary(self._samples, [_text("samples", shown)])
                self._samples += 1

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def _summary(self, step: int, values: Iterable[bytes]) -> None:
        summary = b"".join(_field(1, value) for value in values)
        if summary:
            self._write(_key(2, _VARINT) + _varint(step) + _field(5, summary))

    def _write(self, event: bytes) -> None:
        data = _key(1, _DOUBLE) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_crc(length) + data + _masked_crc(data))
        self._file.flush()


# --- protocol buffers ------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _field(number: int, data: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(data)) + data


def _scalar(tag: str, value: float) -> bytes:
    """Summary.Value: tag and simple_value."""
    return _field(1, tag.encode("utf-8")) + _key(2, _FLOAT) + struct.pack("<f", value)


def _text(tag: str, text: str) -> bytes:
    """Summary.Value: tag, metadata that names the text plugin, and a tensor of one string."""
    plugin = _field(1, _field(1, b"text"))
    shape = _field(2, _field(2, _key(1, _VARINT) + _varint(1)))
    tensor = _key(1, _VARINT) + _varint(_STRING_TENSOR) + shape + _field(8, text.encode("utf-8"))
    return _field(1, tag.encode("utf-8")) + _field(9, plugin) + _field(8, tensor)


# --- CRC-32C ---------------------------------------------------------------------------------


def _table() -> tuple[int, ...]:
    """Remainders of all bytes by Castagnoli's polynomial, bits reversed."""
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_REMAINDERS: Final = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> bytes:
    """Rotated and shifted, so that a CRC of data that holds CRCs stays a good one."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
