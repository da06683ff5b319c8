"""Damage to a model folder's `config.json`, by seed: what editors, scripts, other programs and bad disks make of one."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Fault = tuple[str, bytes]  # what was done, and the file's new content

# Values that no field, or few, can mean.
_HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, 10**400, 2**63, 1.5, -0.5, 1e308, -1e308, 1e-308, float("nan"), float("inf"),
    -float("inf"), "", "128", "two", "\ud800", "a\nb", [], [1], {}, {"0": "a"}, [[[]]], "x" * 100_000,
]  # fmt: skip
_LABELS = [
    [], ["no", "yes"], {}, {"0": "no", "1": "no"}, {"0": "no", "2": "yes"}, {"zero": "no", "one": "yes"}, {"-1": "no", "0": "yes"},
    {"0": None, "1": "yes"}, {"0": "", "1": "yes"}, {"0": ["no"], "1": "yes"}, {"00": "no", "1": "yes"}, {"0": 1, "1": "1"}, "no", 2, True,
    {str(index): f"label {index}" for index in range(200_000)},
]  # fmt: skip


LARGE = ("a hundred thousand labels", "hundred megabytes of a text", "a million equal names")  # cases that take seconds to make


def mutations(text: bytes, seed: int, count: int) -> Iterator[Fault]:
    """`count` different ways to damage the text of a valid `config.json`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        kind = _KINDS[rng.integers(len(_KINDS))]
        yield kind(text, rng)


def named(text: bytes) -> dict[str, Callable[[], bytes]]:
    """Cases that have been seen to do harm, or that chance hardly makes, by name."""
    values = json.loads(text)

    def changed(**fields) -> bytes:
        return _dumped(values | fields)

    return {
        "hidden_size 10**9": lambda: changed(hidden_size=10**9),
        "hidden_size 20000": lambda: changed(hidden_size=20_000, num_attention_heads=1),
        "num_hidden_layers 10**9": lambda: changed(num_hidden_layers=10**9),
        "num_hidden_layers 1000": lambda: changed(num_hidden_layers=1000),
        "vocab_size 10**8": lambda: changed(vocab_size=10**8),
        "zero heads": lambda: changed(num_attention_heads=0),
        "a hundred thousand labels": lambda: changed(id2label={str(index): f"label {index}" for index in range(100_000)}),
        "skim 5": lambda: changed(skim=5),
        "threshold nan": lambda: changed(skim={"threshold": float("nan")}),
        "threshold inf": lambda: changed(skim={"threshold": float("inf")}),
        "threshold 1e300": lambda: changed(skim={"threshold": 1e300}),
        "predictor_size 10**6": lambda: changed(skim={"predictor_size": 10**6}),
        "task a list": lambda: changed(task=[]),
        "task max_length 10**9": lambda: changed(task={"max_length": 10**9}),
        "labels a list": lambda: changed(id2label=["no", "yes"]),
        "labels of one name": lambda: changed(id2label={"0": "no", "1": "no"}),
        "a list a hundred thousand deep": lambda: b'{"a": ' + b"[" * 100_000,
        "objects a hundred thousand deep": lambda: b'{"a": ' * 100_000,
        "hundred megabytes of a text": lambda: b'{"a": "' + b"x" * 100_000_000 + b'"}',
        "a million equal names": lambda: b"{" + b", ".join([b'"a": 1'] * 1_000_000) + b"}",
        "an integer of five thousand digits": lambda: changed(vocab_size=0).replace(b'"vocab_size": 0', b'"vocab_size": ' + b"9" * 5000),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + text,
        "UTF-16": lambda: text.decode().encode("utf-16"),
        "Latin-1": lambda: changed(id2label={"0": "nein", "1": "g\xe4nzlich"}).decode("unicode_escape").encode("latin-1"),
        "nothing": lambda: b"",
    }


def _dumped(values: dict) -> bytes:
    return json.dumps(values, indent=2).encode()


def _paths(values: dict) -> list[tuple[str, ...]]:
    """Fields, and fields of sections."""
    sections = [name for name in ("skim", "task") if isinstance(values.get(name), dict)]
    return [(name,) for name in values] + [(name, field) for name in sections for field in values[name]]


def _replaced(values: dict, path: tuple[str, ...], value) -> dict:
    if len(path) == 1:
        return values | {path[0]: value}
    return values | {path[0]: values[path[0]] | {path[1]: value}}


def _hostile_values(text: bytes, rng: np.random.Generator) -> Fault:
    """One to three fields hold something else."""
    values, done = json.loads(text), []
    for _ in range(rng.integers(1, 4)):
        paths = _paths(values)
        path = paths[rng.integers(len(paths))]
        value = _HOSTILE[rng.integers(len(_HOSTILE))]
        values = _replaced(values, path, value)
        done.append(f"{'.'.join(path)} is {str(value)[:20]!r}")
    return ", ".join(done), _dumped(values)


def _hostile_labels(text: bytes, rng: np.random.Generator) -> Fault:
    labels = _LABELS[rng.integers(len(_LABELS))]
    return f"id2label is {str(labels)[:20]}", _dumped(json.loads(text) | {"id2label": labels})


def _scaled(text: bytes, rng: np.random.Generator) -> Fault:
    """A size of the model is another."""
    values = json.loads(text)
    sizes = [name for name, value in values.items() if type(value) is int]
    name = sizes[rng.integers(len(sizes))]
    factor = (2, 10, 1000, 10**6, 10**12)[rng.integers(5)]
    return f"{name} times {factor}", _dumped(values | {name: (values[name] or 1) * factor})


def _wrong_type(text: bytes, rng: np.random.Generator) -> Fault:
    """A field's value as another type: a text, a list of it, a float."""
    values = json.loads(text)
    paths = _paths(values)
    path = paths[rng.integers(len(paths))]
    value = values[path[0]] if len(path) == 1 else values[path[0]][path[1]]
    kinds: list[Callable] = [str, lambda value: [value], lambda value: {"value": value}, lambda value: value + 0.5]
    kind = rng.integers(4 if type(value) in (int, float) else 3)
    return f"{'.'.join(path)} as type {kind}", _dumped(_replaced(values, path, kinds[kind](value)))


def _left_out(text: bytes, rng: np.random.Generator) -> Fault:
    values = json.loads(text)
    name = list(values)[rng.integers(len(values))]
    return f"{name} left out", _dumped({key: value for key, value in values.items() if key != name})


def _twice(text: bytes, rng: np.random.Generator) -> Fault:
    values = json.loads(text)
    name = list(values)[rng.integers(len(values))]
    again = json.dumps({name: _HOSTILE[rng.integers(len(_HOSTILE))]}, indent=2).encode()[1:]
    return f"{name} twice", text.rstrip().removesuffix(b"}").rstrip() + b"," + again


def _cut(text: bytes, rng: np.random.Generator) -> Fault:
    end = int(rng.integers(len(text) - 2))
    return f"cut behind {end} bytes", text[:end]


def _bytes_changed(text: bytes, rng: np.random.Generator) -> Fault:
    """Some bytes hold anything."""
    content = np.frombuffer(text, np.uint8).copy()
    places = rng.integers(len(content), size=rng.integers(1, 40))
    content[places] = rng.integers(256, size=len(places))
    return f"{len(places)} bytes changed", content.tobytes()


def _nested(text: bytes, rng: np.random.Generator) -> Fault:
    values = json.loads(text)
    name = list(values)[rng.integers(len(values))]
    depth = int(rng.integers(900, 200_000))
    marked = _dumped(values | {name: "deep"})
    return f"{name} nested {depth} deep", marked.replace(b'"deep"', b"[" * depth + b"]" * depth)


_KINDS = [
    _hostile_values, _hostile_values, _hostile_values, _hostile_labels, _scaled, _wrong_type, _wrong_type, _left_out, _twice, _cut,
    _bytes_changed, _nested,
]  # fmt: skip
