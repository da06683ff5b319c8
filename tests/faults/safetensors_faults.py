"""Damage to a safetensors file, by seed: in its header, in what that says of the tensors, and in their values."""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Fault = tuple[str, bytes]  # what was done, and the file's new content
Entry = dict  # what a header says of a tensor: dtype, shape, data_offsets

_HOSTILE_NUMBERS = [-1, 1, 2**31, 2**53, 2**63, 2**64 - 1, 2**64, 10**30, 1.5, "8", None, True, []]


def parts(content: bytes) -> tuple[dict[str, Entry], bytes]:
    """Header and data of a valid file."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: object, data: bytes) -> bytes:
    """The inverse of `parts`; a header of bytes is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# Cases that take seconds to make.
LARGE = ("header of 90 MB", "header of a million tensors", "a hundred thousand tensors")


def mutations(content: bytes, seed: int, count: int) -> Iterator[Fault]:
    """`count` ways to damage a valid file such that it cannot be meant; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield _KINDS[rng.integers(len(_KINDS))](content, rng)


def named(content: bytes) -> dict[str, Callable[[], bytes]]:
    """Cases that chance hardly makes, by name."""
    header, data = parts(content)
    name = next(key for key in header if key != "__metadata__")
    entry = header[name]

    def changed(**fields) -> bytes:
        return joined(header | {name: entry | fields}, data)

    two = json.dumps(header).encode()
    return {
        "nothing": lambda: b"",
        "seven bytes": lambda: content[:7],
        "a header alone": lambda: content[: len(content) - len(data)],
        "header length 0": lambda: struct.pack("<Q", 0) + content[8:],
        "header length 2**64 - 1": lambda: struct.pack("<q", -1) + content[8:],
        "header length 2**40": lambda: struct.pack("<Q", 2**40) + content[8:],
        "header of 90 MB": lambda: joined(b"{" + b" " * 90_000_000 + b"}", data),
        "header of a million tensors": lambda: joined(
            {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(1_000_000)}, b""
        ),
        "a hundred thousand tensors": lambda: joined(
            {f"t{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(100_000)}, b""
        ),
        "shape whose product overflows": lambda: changed(shape=[2**33, 2**33]),
        "shape whose product overflows to the right size": lambda: changed(shape=[2**32, 2**32, *entry["shape"]]),
        "shape with a zero": lambda: changed(shape=[0, *entry["shape"]]),
        "a name twice": lambda: joined(two[:-1] + b", " + json.dumps({name: entry}).encode()[1:], data),
        "a name that is not UTF-8": lambda: joined(two.replace(name.encode(), b"\xff\xfe" + name.encode()[2:], 1), data),
        "a deep header": lambda: joined(b'{"a": ' * 100_000, data),
        "every value NaN": lambda: joined(header, np.full(len(data) // 4, np.nan, np.float32).tobytes()),
        "every value infinite": lambda: joined(header, np.full(len(data) // 4, np.inf, np.float32).tobytes()),
    }


def _entry(content: bytes, rng: np.random.Generator) -> tuple[dict[str, Entry], bytes, str]:
    header, data = parts(content)
    names = [name for name in header if name != "__metadata__"]
    return header, data, names[rng.integers(len(names))]


def _hostile(values: list, rng: np.random.Generator):
    return values[rng.integers(len(values))]


def _cut(content: bytes, rng: np.random.Generator) -> Fault:
    end = int(rng.integers(len(content)))
    return f"cut behind {end} bytes", content[:end]


def _longer(content: bytes, rng: np.random.Generator) -> Fault:
    count = int(rng.integers(1, 10_000))
    return f"{count} bytes more", content + rng.bytes(count)


def _header_length(content: bytes, rng: np.random.Generator) -> Fault:
    (size,) = struct.unpack("<Q", content[:8])
    other = int(_hostile([0, 1, size - 1, size + 1, size + 8, len(content), 2**31, 2**40, 2**63, 2**64 - 1], rng))
    return f"header length {other}", struct.pack("<Q", other) + content[8:]


def _header_bytes(content: bytes, rng: np.random.Generator) -> Fault:
    (size,) = struct.unpack("<Q", content[:8])
    header = np.frombuffer(content[8 : 8 + size], np.uint8).copy()
    places = rng.integers(len(header), size=rng.integers(1, 20))
    header[places] = rng.integers(128, 256, size=len(places))
    return f"{len(places)} bytes of the header changed", joined(header.tobytes(), content[8 + size :])


def _offsets(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, name = _entry(content, rng)
    begin, end = header[name]["data_offsets"]
    others: list[Any] = [
        [end, begin], [begin + 4, end], [begin, end + 4], [begin - 4, end - 4], [begin, len(data) + 4], [0, 0], [begin], [begin, end, end],
        None, "0", {}, [-begin, end], [float(begin), end], [2**64 - 4, 2**64], [2**63, 2**63 + end - begin],
    ]  # fmt: skip
    other = others[rng.integers(len(others))]
    if other == [begin, end]:
        other = [end, end]
    return f"offsets {other} of {name}", joined(header | {name: header[name] | {"data_offsets": other}}, data)


def _shape(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, name = _entry(content, rng)
    shape = list(header[name]["shape"])
    place = int(rng.integers(len(shape)))
    shape[place] = _hostile([value for value in _HOSTILE_NUMBERS if value != shape[place]], rng)
    others: list[Any] = [shape, None, "shape", {}, [*header[name]["shape"], 2], [2**33, 2**33]]
    other = others[0 if rng.integers(3) else rng.integers(len(others))]
    return f"shape {other} of {name}", joined(header | {name: header[name] | {"shape": other}}, data)


def _dtype(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, name = _entry(content, rng)
    other = _hostile(["I32", "U32", "F16", "F64", "BF16", "BOOL", "F8_E4M3", "I8", "C64", "f32", "", None, 5, []], rng)
    return f"dtype {other} of {name}", joined(header | {name: header[name] | {"dtype": other}}, data)


def _entry_replaced(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, name = _entry(content, rng)
    other = _hostile([None, [], {}, "tensor", 5, {"dtype": "F32"}, header[name] | {"shape": None}], rng)
    return f"{name} is {other}", joined(header | {name: other}, data)


def _renamed(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, name = _entry(content, rng)
    other = _hostile(["", name + "x", "\n", "../" + name, "encoder.layer.999999999.x", "\ud800", "x" * 10_000, name.upper()], rng)
    return f"{name} called {other[:20]!r}", joined({other if key == name else key: value for key, value in header.items()}, data)


def _left_out(content: bytes, rng: np.random.Generator) -> Fault:
    """A tensor is not there, though the data are whole."""
    header, data, name = _entry(content, rng)
    begin, end = header[name]["data_offsets"]
    moved = {
        key: value
        if key == "__metadata__" or value["data_offsets"][0] < end
        else value | {"data_offsets": [offset - (end - begin) for offset in value["data_offsets"]]}
        for key, value in header.items()
        if key != name
    }
    return f"without {name}", joined(moved, data[:begin] + data[end:])


def _not_finite(content: bytes, rng: np.random.Generator) -> Fault:
    """One value of a tensor is NaN or infinite."""
    header, data, name = _entry(content, rng)
    begin, end = header[name]["data_offsets"]
    values = np.frombuffer(data, np.float32).copy()
    value = _hostile([np.nan, np.inf, -np.inf], rng)
    values[int(rng.integers(begin // 4, end // 4))] = value
    return f"{value} in {name}", joined(header, values.tobytes())


def _metadata(content: bytes, rng: np.random.Generator) -> Fault:
    header, data, _ = _entry(content, rng)
    other = _hostile([[], "pt", 5, {"format": 5}, {"format": ["pt"]}, {"format": None}], rng)
    return f"metadata {other}", joined(header | {"__metadata__": other}, data)


def _another_file(content: bytes, rng: np.random.Generator) -> Fault:
    others: dict[str, bytes] = {
        "random bytes": rng.bytes(int(rng.integers(1, 100_000))),
        "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a page of HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "zeros": bytes(int(rng.integers(1, 100_000))),
    }
    name = list(others)[rng.integers(len(others))]
    return name, others[name]


_KINDS: list[Callable[[bytes, np.random.Generator], Fault]] = [
    _cut, _longer, _header_length, _header_bytes, _offsets, _offsets, _shape, _shape, _dtype, _entry_replaced, _renamed, _left_out,
    _not_finite, _not_finite, _metadata, _another_file,
]  # fmt: skip
