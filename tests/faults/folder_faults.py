"""Damage to the other files of a model folder: shards, calibrations, torch's weights, tokenizers, digests."""

import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

Damage = Callable[[pathlib.Path], None]


def named() -> Iterator[tuple[str, str, Damage]]:
    """Kind, name, and what is done to a folder of `model_folder.write_model`."""
    kinds = {"index of shards": _INDEXES, "calibration": _CALIBRATIONS, "pytorch_model.bin": _TORCH, "other files": _FILES}
    for kind, cases in kinds.items():
        for name, damage in cases.items():
            yield kind, name, damage


def flipped_bit(path: pathlib.Path, rng: np.random.Generator) -> tuple[str, Damage]:
    """One bit of a file of a folder, drawn from a whole folder's file."""
    content = path.read_bytes()
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))

    def damage(folder: pathlib.Path) -> None:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        (folder / path.name).write_bytes(bytes(changed))

    return f"bit {bit} of byte {place}", damage


def _undigested(damage: Damage) -> Damage:
    """With no digests, which would find the damage first."""

    def both(folder: pathlib.Path) -> None:
        (folder / "SHA256SUMS").unlink()
        damage(folder)

    return both


def _index(weight_map: object) -> Damage:
    """The weights are a shard that lies both in the folder and beside it."""

    def damage(folder: pathlib.Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder.parent / "outside.safetensors").write_bytes((folder / "part.safetensors").read_bytes())
        named = {"a": str(folder.parent / "outside.safetensors")} if weight_map == "absolute" else weight_map
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}), encoding="utf-8")

    return _undigested(damage)


_INDEXES = {
    "an absolute path": _index("absolute"),
    "a path upwards": _index({"a": "../outside.safetensors"}),
    "a path through a folder": _index({"a": "./part.safetensors"}),
    "two dots": _index({"a": ".."}),
    "a shard that is not there": _index({"a": "other.safetensors"}),
    "a number": _index({"a": 5}),
    "a list": _index(["part.safetensors"]),
    "nothing": _index({}),
    "null": _index(None),
}


def _calibration(content: object) -> Damage:
    def damage(folder: pathlib.Path) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "skim_calibration.json").write_bytes(text)

    return _undigested(damage)


def _kept(lengths: object, kept: object, threshold: object = 0.25) -> Damage:
    return _calibration({"threshold": threshold, "lengths": lengths, "kept": kept})


def _in_its_place(name: str) -> Damage:
    """A folder where a file should be."""

    def damage(folder: pathlib.Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return _undigested(damage)


_CALIBRATIONS = {
    "negative": _kept([5, -6], [[5, -6]] * 3),
    "zeros": _kept([0, 0], [[0, 0]] * 3),
    "10**30": _kept([10**30], [[10**30]] * 3),
    "10**400": _kept([10**400], [[10**400]] * 3),
    "NaN": _kept([float("nan")], [[1]] * 3),
    "threshold NaN": _kept([5], [[5]] * 3, float("nan")),
    "threshold infinite": _kept([5], [[5]] * 3, float("inf")),
    "threshold a text": _kept([5], [[5]] * 3, "0.25"),
    "fractions": _kept([5.5], [[5.5]] * 3),
    "texts": _kept(["5"], [["5"]] * 3),
    "true": _kept([True], [[True]] * 3),
    "more kept than there are": _kept([5], [[6], [6], [6]]),
    "more kept in a later layer": _kept([5], [[3], [4], [4]]),
    "of another model": _kept([5], [[5]] * 4),
    "ragged": _kept([5, 5], [[5, 5], [5], [5, 5]]),
    "no examples": _kept([], [[], [], []]),
    "ten million entries": _calibration(
        b'{"threshold": 0, "lengths": [' + b"5," * 2_500_000 + b'5], "kept": [' + b"[" + b"5," * 2_500_000 + b"5]]}"
    ),
    "a million entries": _kept([5] * 250_000, [[5] * 250_000] * 3),
    "a list": _calibration([]),
    "null": _calibration(None),
    "nothing": _calibration(b""),
    "half": _calibration(b'{"threshold": 0.25, "lengths": [5'),
    "deep": _calibration(b'{"lengths": ' + b"[" * 100_000),
    "binary": _calibration(bytes(range(256))),
    "a folder": _in_its_place("skim_calibration.json"),
}


def _torch(make: Callable) -> Damage:
    """`pytorch_model.bin` of what `make` makes of torch and the tensors, instead of safetensors."""

    def damage(folder: pathlib.Path) -> None:
        import torch
        from safetensors.numpy import load_file

        state = {name: torch.from_numpy(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
        (folder / "model.safetensors").unlink()
        made = make(torch, state)
        if isinstance(made, bytes):
            (folder / "pytorch_model.bin").write_bytes(made)
        else:
            torch.save(made, folder / "pytorch_model.bin")

    return _undigested(damage)


_WORDS = "bert.embeddings.word_embeddings.weight"


def _saved(torch, state) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


_TORCH = {
    "random bytes": _torch(lambda torch, state: np.random.default_rng(0).bytes(50_000)),
    "nothing": _torch(lambda torch, state: b""),
    "half": _torch(lambda torch, state: _saved(torch, state)[:20_000]),
    "a pickle that runs code": _torch(lambda torch, state: b"cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    "an archive of something else": _torch(lambda torch, state: b"PK\x05\x06" + bytes(18)),
    "integers as names": _torch(lambda torch, state: dict(enumerate(state.values()))),
    "tuples as names": _torch(lambda torch, state: {(name,): tensor for name, tensor in state.items()}),
    "a list of tensors": _torch(lambda torch, state: list(state.values())),
    "one tensor": _torch(lambda torch, state: state[_WORDS]),
    "values that are no tensors": _torch(lambda torch, state: state | {"epoch": 3}),
    "nested": _torch(lambda torch, state: {"state_dict": state}),
    "sparse": _torch(lambda torch, state: state | {_WORDS: state[_WORDS].to_sparse()}),
    "compressed rows": _torch(lambda torch, state: state | {_WORDS: state[_WORDS].to_sparse_csr()}),
    "quantised": _torch(lambda torch, state: state | {_WORDS: torch.quantize_per_tensor(state[_WORDS], 0.1, 0, torch.qint8)}),
    "on no device": _torch(lambda torch, state: state | {_WORDS: state[_WORDS].to("meta")}),
    "complex": _torch(lambda torch, state: state | {_WORDS: state[_WORDS].to(torch.complex64)}),
    "whole numbers": _torch(lambda torch, state: state | {_WORDS: state[_WORDS].to(torch.int32)}),
    "another shape": _torch(lambda torch, state: state | {_WORDS: state[_WORDS][:5]}),
    "a shape without values behind it": _torch(lambda torch, state: state | {_WORDS: torch.zeros(1).expand(10**9, 10**9)}),
    "NaN": _torch(lambda torch, state: state | {_WORDS: torch.full_like(state[_WORDS], float("nan"))}),
    "a tensor missing": _torch(lambda torch, state: {name: tensor for name, tensor in state.items() if name != _WORDS}),
}


def _written(name: str, content: bytes) -> Damage:
    def damage(folder: pathlib.Path) -> None:
        (folder / name).write_bytes(content)

    return _undigested(damage)


def _missing(name: str) -> Damage:
    def damage(folder: pathlib.Path) -> None:
        (folder / name).unlink()

    return damage


def _digests(content: bytes) -> Damage:
    def damage(folder: pathlib.Path) -> None:
        (folder / "SHA256SUMS").write_bytes(content)

    return damage


_FILES = {
    "config.json a folder": _in_its_place("config.json"),
    "model.safetensors a folder": _in_its_place("model.safetensors"),
    "vocab.txt a folder": _in_its_place("vocab.txt"),
    "tokenizer_config.json a list": _written("tokenizer_config.json", b"[]"),
    "tokenizer_config.json cut": _written("tokenizer_config.json", b'{"tokenizer_class": '),
    "tokenizer.json a list": _written("tokenizer.json", b"[]"),
    "tokenizer.json binary": _written("tokenizer.json", bytes(range(256))),
    "vocab.txt empty": _written("vocab.txt", b""),
    "vocab.txt with more words than the model": _written(
        "vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(100))]).encode()
    ),
    "config.json missing": _missing("config.json"),
    "model.safetensors missing": _missing("model.safetensors"),
    "skim_calibration.json missing, though it has a digest": _missing("skim_calibration.json"),
    "vocab.txt missing": _missing("vocab.txt"),
    "SHA256SUMS binary": _digests(bytes(range(256))),
    "SHA256SUMS of another program": _digests(b"d41d8cd98f00b204e9800998ecf8427e  config.json\n"),
    "SHA256SUMS of hundred megabytes": _digests(b"a" * 100_000_000),
    "SHA256SUMS of other files": _digests(b"0" * 64 + b"  config.json\n"),
}
