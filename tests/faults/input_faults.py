"""Hostile inputs, drawn by a seed: files of examples as they go wrong, and calls of the Python API that cannot be meant.

Each is answered, or refused in one line. `outcome` says which; anything else is a traceback.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flax import nnx
from vocabulary import write_tokenizer

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.errors import TranskimmerError
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture

LONGEST_MESSAGE = 700  # characters


@dataclasses.dataclass(frozen=True)
class HostileFile:
    """What is made at a path: bytes, or another thing that stands where a file should."""

    name: str
    make: Callable[[pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class HostileCall:
    """A call of an engine or of its model."""

    name: str
    call: Callable[[Any, Any], Any]  # of the engine and the model


def save_model(folder: pathlib.Path) -> pathlib.Path:
    """A model folder, small enough to be built in a second."""
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        tokenizer = load_tokenizer(write_tokenizer(pathlib.Path(tokenizer_folder)))
    arch = Architecture(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24,
        num_labels=2, initializer_range=0.3, skim=SkimArchitecture(initial_bias=0.0),
    )  # fmt: skip
    task = {"name": "files", "max_length": 12, "text_columns": ["text"], "label_column": "label"}
    TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0)).save_pretrained(
        folder, tokenizer=tokenizer, label_names=("bad", "good"), extra_config={"task": task}
    )
    return folder


def hostile_files(seed: int, mutants: int) -> Iterator[HostileFile]:
    """Every known fault once, and `mutants` random ones."""
    yield from _known_files()
    rng = random.Random(seed)
    for number in range(mutants):
        ending = rng.choice(("jsonl", "csv", "txt"))
        content = _GOOD[ending]
        for _ in range(rng.randint(1, 4)):
            content = rng.choice(_MUTATIONS)(rng, content)
        yield HostileFile(f"mutant{number}.{ending}", _writer(content))


_RECORDS = [{"text": f"good film {number}, the film is bad", "label": ("bad", "good")[number % 2], "id": number} for number in range(6)]
_GOOD = {
    "jsonl": "".join(json.dumps(record) + "\n" for record in _RECORDS).encode(),
    "csv": ("text,label,id\n" + "".join(f'"{one["text"]}",{one["label"]},{one["id"]}\n' for one in _RECORDS)).encode(),
    "txt": "".join(f"{record['text']}\n" for record in _RECORDS).encode(),
}
_TOKENS = (
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"\r",
    b"{",
    b"]",
    b"\\ud83d",
    b"NaN",
    b"1e999",
    b",,,",
    b"null",
    b"\xc3",
    b"\n\n",
    b"\xe2\x80\xa8",
    b"9" * 5000,
)


def _flip(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.choice(_TOKENS) + content[place:]


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(1, len(content))] if len(content) > 1 else content


def _repeat(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content))
    return content + content[start : start + 40] * rng.choice((2, 500))


def _junk(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + rng.randbytes(rng.randint(1, 64)) + content[start:]


_MUTATIONS = (_flip, _insert, _truncate, _repeat, _junk)


def _writer(content: bytes) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        path.write_bytes(content)

    return write


def _known_files() -> Iterator[HostileFile]:
    good = _GOOD["jsonl"]
    text = '{{"text": {}, "label": "good"}}\n'
    contents: dict[str, bytes] = {
        "empty.jsonl": b"",
        "empty.csv": b"",
        "empty.txt": b"",
        "blank.jsonl": b" \n\t\n",
        "header.csv": b"text,label\n",
        "utf16.jsonl": good.decode().encode("utf-16"),
        "utf16le.txt": _GOOD["txt"].decode().encode("utf-16-le"),
        "utf32.csv": _GOOD["csv"].decode().encode("utf-32"),
        "latin.txt": "Zoë ist gut\n".encode("latin-1"),
        "bom.jsonl": b"\xef\xbb\xbf" + good,
        "boms.csv": 3 * b"\xef\xbb\xbf" + _GOOD["csv"],
        "cr.jsonl": good.replace(b"\n", b"\r"),
        "cr.csv": _GOOD["csv"].replace(b"\n", b"\r"),
        "crlf.txt": _GOOD["txt"].replace(b"\n", b"\r\n"),
        "nul.jsonl": good.replace(b"film", b"\x00"),
        "nul.csv": _GOOD["csv"].replace(b"film", b"\x00"),
        "nul.txt": 5000 * b"\x00" + b"\n",
        "random.jsonl": random.Random(1).randbytes(5000),
        "random.csv": random.Random(2).randbytes(5000),
        "random.txt": random.Random(3).randbytes(5000),
        "gzip.jsonl": gzip.compress(good),
        "packed.jsonl.gz": gzip.compress(good),
        "packed.csv.zip": b"PK\x03\x04",
        "data.parquet": b"PAR1",
        "noending": good,
        "data.tsv": b"text\tlabel\n",
        "array.jsonl": json.dumps(_RECORDS).encode(),
        "pretty.jsonl": json.dumps(_RECORDS[0], indent=2).encode(),
        "scalar.jsonl": b"3\n",
        "null.jsonl": b"null\n",
        "string.jsonl": b'"good"\n',
        "deep.jsonl": b'{"text":' + 100_000 * b"[" + b"\n",
        "nan.jsonl": b'{"text": "a", "label": NaN}\n',
        "nan_id.jsonl": b'{"text": "good", "label": "good", "id": NaN}\n',
        "infinite_id.jsonl": b'{"text": "bad", "label": "bad", "id": [1, -Infinity]}\n',
        "overflow_id.jsonl": b'{"text": "good", "label": "good", "id": 1e999}\n',
        "digits.jsonl": text.format("9" * 5000).encode(),
        "number.jsonl": text.format("3").encode(),
        "none.jsonl": text.format("null").encode(),
        "list.jsonl": text.format('["a", "b"]').encode(),
        "object.jsonl": text.format('{"a": 1}').encode(),
        "half.jsonl": text.format('"\\ud83d"').encode(),
        "halves.jsonl": text.format('"\\udc00\\ud83d"').encode(),
        "pair.jsonl": text.format('"\\ud83d\\ude00"').encode(),
        "twice.jsonl": b'{"text": "a", "text": 3, "label": "good"}\n',
        "notext.jsonl": b'{"txt": "a"}\n',
        "nolabel.jsonl": b'{"text": "a"}\n',
        "boolean.jsonl": b'{"text": "a", "label": true}\n',
        "trailing.jsonl": b'{"text": "a",}\n',
        "columns.jsonl": json.dumps({f"column {number}": "a" for number in range(20_000)}).encode(),
        "key.jsonl": json.dumps({1_000_000 * "k": "a"}).encode(),
        "quote.csv": b'text,label\n"good film,good\n',
        "quotes.csv": b'text,label\n"go"od,good\n',
        "ragged.csv": b"text,label\ngood\n",
        "wide.csv": b"text,label\na,b,c\n",
        "double.csv": b"text,text\na,b\n",
        "cell.csv": b'text,label\n"' + 70_000 * b"film " + b'",good\nbad,bad\n',
        "header_cell.csv": 500_000 * b"x" + b"\n1\n",
        "label_cell.csv": b"text,label\na," + 200_000 * b"z" + b"\nb,c\n",
        "semicolon.csv": b"text;label\ngood;good\n",
        "spaces.csv": b"text, label\na, good\n",
        "word.txt": 2_000_000 * b"a" + b"\n",
        "blob.txt": 500_000 * b"0aF9" + b" good film\n",
        "gap.txt": b"good" + 2_000_000 * b" " + b"film\n",
        "long.jsonl": json.dumps({"text": 400_000 * "good film ", "label": "good"}).encode(),
        "zeros.jsonl": text.format(json.dumps(300_000 * "\x00")).encode(),
        "marks.jsonl": text.format(json.dumps("e" + 100_000 * "\u0301")).encode(),
        "ideographs.jsonl": text.format(json.dumps(200_000 * "電影")).encode(),
        "emoji.jsonl": text.format(json.dumps(100_000 * "😀")).encode(),
        "special.txt": 1000 * b"[SEP] [CLS] [PAD] " + b"\n",
        "bell.txt": b"\x07\x1b[31mgood\n",
        "one_class.jsonl": b'{"text": "a", "label": "good"}\n{"text": "b", "label": "good"}\n',
        "classes.csv": b"text,label\n" + b"".join(b"a,%d\n" % n for n in range(500)),
        "inf.csv": b"text,label\na,inf\nb,1.5\n",
        "huge.csv": b"text,label\na,1e300\nb,1.5\n",
        "big.jsonl": b'{"text": "a", "label": 1%s}\n{"text": "b", "label": 2}\n' % (100 * b"0"),
    }
    for name, content in contents.items():
        yield HostileFile(name, _writer(content))
    yield HostileFile("folder.jsonl", lambda path: path.mkdir())
    yield HostileFile("missing.jsonl", lambda path: None)
    yield HostileFile("dangling.csv", lambda path: path.symlink_to("nowhere"))
    yield HostileFile("circle.txt", lambda path: path.symlink_to(path))
    yield HostileFile("pipe.jsonl", lambda path: os.mkfifo(path))
    yield HostileFile("line\nbreak.jsonl", lambda path: None)
    yield HostileFile(300 * "n" + ".jsonl", lambda path: None)


_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    -3,
    1,
    2.5,
    10**30,
    float("nan"),
    float("inf"),
    1j,
    "",
    "good",
    "0.5",
    "a \ud83d",
    b"good",
    (),
    [],
    {},
    set(),
    {"text": "a"},
    ["good"],
    ["good", 3],
    ["good", None],
    [None],
    [[]],
    [()],
    [("a",)],
    [("a", "b")],
    [("a", "b", "c")],
    [("a", 1)],
    ["a", ("a", "b")],
    ["\udc00"],
    ["a\x00b"],
    [b"a"],
    [True],
    object(),
    len,
    ValueError("no"),
    range(3),
    np.array("good"),
    np.array(["good", "bad"]),
    np.array([["a", "b"]]),
    np.array([1.5]),
    np.zeros((2, 3), np.int32),
    np.zeros((0, 4), np.int32),
    np.full((1, 4), 99),
    np.full((1, 4), -1),
    np.zeros((1, 99), np.int64),
    np.zeros((2, 2, 2), int),
    np.zeros(3, bool),
    np.float32(0.5),
    np.array(object()),
)


_ENGINE_ARGUMENTS = (
    "max_length", "batch_tokens", "batch_size", "threshold", "label_names", "runtime", "provider", "precision", "threads",
)  # fmt: skip


def hostile_calls(seed: int, count: int) -> Iterator[HostileCall]:
    """Methods with one argument that is drawn, or arrays that do not fit."""
    rng = random.Random(seed)
    kinds: dict[str, Callable[[Any], Callable[[Any, Any], Any]]] = {
        "predict": lambda value: lambda engine, model: engine.predict(value, progress=False),
        "predict_iterator": lambda value: lambda engine, model: engine.predict(iter([value]), progress=False),
        "predict_threshold": lambda value: lambda engine, model: engine.predict(["good"], threshold=value, progress=False),
        "predict_stream": lambda value: lambda engine, model: list(engine.predict_stream(value)),
        "predict_stream_window": lambda value: lambda engine, model: list(engine.predict_stream(["good"], window=value)),
        "predict_tokenized": lambda value: lambda engine, model: engine.predict_tokenized(value),
        "calibrate": lambda value: lambda engine, model: engine.calibrate(value),
        "warm_up": lambda value: lambda engine, model: engine.warm_up(value, progress=False),
        "model": lambda value: lambda engine, model: model(value),
        "model_mask": lambda value: lambda engine, model: model(np.zeros((2, 3), np.int32), attention_mask=value),
        "model_types": lambda value: lambda engine, model: model(np.zeros((2, 3), np.int32), token_type_ids=value),
        "arrays": lambda value: lambda engine, model: engine.predict_tokenized(_tokens(random.Random(repr(value)))),
    } | {
        f"engine_{name}": lambda value, name=name: lambda engine, model: type(engine)(model, **{name: value})
        for name in _ENGINE_ARGUMENTS
    }  # fmt: skip
    for number in range(count):
        kind, value = rng.choice(sorted(kinds)), rng.choice(_VALUES)
        value = number if kind == "arrays" else value
        yield HostileCall(f"{kind}({value!r:.40})", kinds[kind](value))


def _tokens(rng: random.Random) -> TokenizedExamples:
    """Token ids of three examples, of which something is wrong."""
    ids, offsets = np.array([2, 8, 3, 2, 3, 2, 9, 3]), np.array([0, 3, 5, 8])
    types = np.zeros(8, np.int8)
    place = rng.randrange(8)
    match rng.randrange(8):
        case 0:
            ids[place] = rng.choice((-1, 32, 2**40))
        case 1:
            types[place] = rng.choice((-1, 2, 100))
        case 2:
            offsets[rng.randrange(4)] += rng.choice((-3, 5, 100))
        case 3:
            ids = ids[:place]
        case 4:
            types = types[:place]
        case 5:
            ids = ids.astype(rng.choice((float, complex, object, str)))
        case 6:
            offsets = offsets[: rng.randrange(4)]
        case _:
            ids = ids[None]
    return TokenizedExamples(ids, types, offsets, np.zeros(3, np.int32), np.zeros(3, bool))


def outcome(call: Callable[[], Any]) -> str:
    """'answered', 'refused' (one line of ours), or how it failed."""
    try:
        call()
    except TranskimmerError as error:
        message = str(error)
        return "refused" if message and "\n" not in message and len(message) <= LONGEST_MESSAGE else f"no line: {message[:200]!r}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    return "answered"
