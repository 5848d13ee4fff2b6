"""Scalars of TensorBoard event files, read without TensorFlow, protobuf or TensorBoard.

A file is a row of records (TFRecord: length, checksum, bytes, checksum), each a protocol buffer
`Event`. Only the few fields that hold scalars are followed; the wire format makes it safe to step
over all others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Wire types of protocol buffers and their sizes where fixed.
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
# Field numbers: Event.wall_time, .step, .summary; Summary.value; Value.tag, .simple_value, .tensor;
# TensorProto.dtype, .tensor_content, .float_val, .double_val.
_WALL_TIME, _STEP, _SUMMARY, _VALUE = 1, 2, 5, 1
_TAG, _SIMPLE, _TENSOR = 1, 2, 8
_DTYPE, _CONTENT, _FLOATS, _DOUBLES = 1, 4, 5, 6
_FORMATS = {1: "<f", 2: "<d"}


class Scalar(NamedTuple):
    """One logged number."""

    tag: str
    step: int
    wall_time: float
    value: float


def read_scalars(path: Path) -> tuple[list[Scalar], str]:
    """All scalars of one event file, and a sentence on its damage, empty where there is none.

    Of a file that ends in the middle of a record, as a crash leaves it, the part before is
    returned.

    Args:
        path: TensorBoard event file.
    """
    data = path.read_bytes()
    scalars: list[Scalar] = []
    position = 0
    while position < len(data):
        if position + 12 > len(data):
            return scalars, f"{path.name} ends inside a record"
        (size,) = struct.unpack_from("<Q", data, position)
        start, position = position + 12, position + 12 + size + 4
        if position > len(data):
            return scalars, f"{path.name} ends inside a record"
        try:
            scalars += _event_scalars(data[start : start + size])
        except (IndexError, struct.error, UnicodeDecodeError):
            return (
                scalars,
                f"{path.name} holds a record that is not an event, after {len(scalars)} scalars",
            )
    return scalars, ""


def _event_scalars(event: bytes) -> Iterator[Scalar]:
    step, wall_time = 0, 0.0
    summaries: list[bytes] = []
    for number, value in _fields(event):
        if number == _STEP and isinstance(value, int):
            step = value
        elif number == _WALL_TIME and isinstance(value, bytes):
            (wall_time,) = struct.unpack("<d", value)
        elif number == _SUMMARY and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, entry in _fields(summary):
            if number == _VALUE and isinstance(entry, bytes):
                tag, scalar = _tag_and_value(entry)
                if scalar is not None:
                    yield Scalar(tag, step, wall_time, scalar)


def _tag_and_value(entry: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in _fields(entry):
        if isinstance(value, int):
            continue
        if number == _TAG:
            tag = value.decode()
        elif number == _SIMPLE:
            (scalar,) = struct.unpack("<f", value)
        elif number == _TENSOR:
            scalar = _tensor_scalar(value)
    return tag, scalar


def _tensor_scalar(tensor: bytes) -> float | None:
    fields = dict(_fields(tensor))
    dtype = fields.get(_DTYPE)
    shape = _FORMATS.get(dtype) if isinstance(dtype, int) else None
    content = next(
        (
            value
            for key in (_CONTENT, _FLOATS, _DOUBLES)
            if isinstance(value := fields.get(key), bytes)
        ),
        None,
    )
    if shape is None or content is None or len(content) != struct.calcsize(shape):
        return None
    return float(struct.unpack(shape, content)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an integer, or bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _LENGTH:
            size, position = _varint(message, position)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise IndexError(f"wire type {wire}")
        if position + size > len(message):
            raise IndexError("a field reaches beyond its message")
        yield number, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
