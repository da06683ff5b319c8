"""Damage to a model folder's `config.json` that has been seen to do harm."""

import json
from collections.abc import Callable

LARGE = ("a hundred thousand labels", "hundred megabytes of a text", "a million equal names")  # cases that take seconds to make


def named(text: bytes) -> dict[str, Callable[[], bytes]]:
    """Contents of the file, by name."""
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
