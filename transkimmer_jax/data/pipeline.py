"""From texts to batches: tokenise once, plan every epoch (`batches.py`), collate on demand in a Grain iterator."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.checkpoints import config_file, folders, tokenizer_files
from transkimmer_jax.checkpoints.backbones import FORMATS
from transkimmer_jax.data import saved_tokenizers
from transkimmer_jax.data.batches import Batch, BatchPlan, TokenizedExamples, collate, concatenated
from transkimmer_jax.data.encodings import chunks, encode, from_rows, prefix, tokenized
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.errors import CheckpointError, DataError, first_line

if TYPE_CHECKING:
    import grain

_PREFETCHED_BATCHES = 8
_VOCABULARIES = (tokenizer_files.STATE_FILE, "vocab.txt", "vocab.json")  # that transformers reads by itself


def load_tokenizer(folder: str | pathlib.Path, vocab_size: int | None = None) -> Any:
    """The tokenizer of a checkpoint folder or hub id: transformers', or a `SavedTokenizer` with the same ids.

    Args:
      vocab_size: rows of the model's embedding table, to be checked against.

    Raises:
      CheckpointError: none there, one that cannot be loaded, one that cannot pad, or one with ids that the model has no row for; a package
        that is needed for it and not installed.
    """
    path = pathlib.Path(folder)
    for name in folders.listed_names(path):
        if not name.endswith(".safetensors"):  # those are checked when they are read
            folders.verify(path / name)
    tokenizer = saved_tokenizers.read(path, lambda: _of_transformers(path))
    highest = max(tokenizer.get_vocab().values())
    if vocab_size is not None and highest >= vocab_size:
        raise CheckpointError(f"the tokenizer in {folder} has ids up to {highest}, but the model's vocabulary has {vocab_size} entries")
    return tokenizer


def _of_transformers(folder: pathlib.Path) -> Any:
    import transformers  # slow to import

    _require_sentencepiece(folder)
    try:
        tokenizer = _by_class(transformers, folder)
    except Exception as error:  # the libraries below raise whatever their parsers raise
        raise CheckpointError(f"no tokenizer can be loaded from {folder}: {type(error).__name__}: {first_line(error)}") from error
    # From a config alone transformers builds a tokenizer that knows its special tokens and nothing else.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CheckpointError(f"no tokenizer in {folder}: tokenizer.json or a vocabulary file is missing")
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"the tokenizer in {folder} has no padding token: set pad_token in its tokenizer_config.json")
    return tokenizer


def _require_sentencepiece(folder: pathlib.Path) -> None:
    """Raises `CheckpointError` where the only vocabulary is one of SentencePiece, and that is not installed. Transformers would take the
    file for one of tiktoken, and ask for that package."""
    if any((folder / name).is_file() for name in _VOCABULARIES) or not any(folder.glob("*.model")):
        return
    with extras.needed("sentencepiece", f"the tokenizer in {folder}, which has no tokenizer.json,", CheckpointError):
        import sentencepiece  # noqa: F401


def _by_class(transformers: Any, folder: pathlib.Path) -> Any:
    """The tokenizer of `AutoTokenizer`, which imports torch to look up a class: a class that the folder names is looked up here."""
    of_tokenizer, of_model = (_fields(folder / name) for name in (tokenizer_files.CONFIG_FILE, config_file.CONFIG_FILE))
    name = of_tokenizer.get("tokenizer_class") or of_model.get("tokenizer_class")
    backbone = next((name for name in FORMATS if name in (of_model.get("model_type"), of_model.get("backbone"))), "bert")
    if _is_misnamed(str(name), backbone, folder / tokenizer_files.STATE_FILE):
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer_class = getattr(transformers, str(name), None)
    if tokenizer_class is not None:
        return tokenizer_class.from_pretrained(folder)
    # The backbone says which class its models have. `AutoTokenizer` knows no skimming model's type, so it is given the backbone's config.
    config_class = getattr(transformers, f"{FORMATS[backbone].class_prefix}Config")
    return transformers.AutoTokenizer.from_pretrained(folder, config=config_class())


def _is_misnamed(name: str, backbone: str, path: pathlib.Path) -> bool:
    """Whether the class that the folder names would change the tokenizer, and `AutoTokenizer` reads `tokenizer.json` as it is."""
    if not path.is_file():
        return False
    if backbone == "modernbert":
        return True
    if name.removesuffix("Fast") != "LlamaTokenizer":
        return False
    splitting = _fields(path).get("pre_tokenizer") or {}
    return any(step.get("type") == "ByteLevel" for step in [splitting, *splitting.get("pretokenizers", [])])


def _fields(path: pathlib.Path) -> dict[str, Any]:
    """The fields of a JSON file; none where it cannot be read: transformers then reports why."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def tokenize(examples: Examples, tokenizer: Any, max_length: int) -> TokenizedExamples:
    """`examples` as token ids, cut to `max_length` tokens with special tokens, as transformers' truncation "longest_first" does.

    Of a text of more than `encodings.prefix`, only that prefix is tokenised.

    Raises:
      DataError: a `max_length` that holds not even the special tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=examples.pairs is not None)
    if max_length < special:
        raise DataError(f"data.max_length={max_length} does not hold the {special} special tokens of an example")
    parts = [tokenized((), tokenizer)]
    for chunk in chunks(len(examples)):
        texts = [prefix(text, tokenizer, max_length) for text in examples.texts[chunk]]
        if examples.pairs is None:
            read = encode(tokenizer, texts, max_length)
            cut = [
                bool(one.overflowing) or len(part) < len(text) for one, part, text in zip(read, texts, examples.texts[chunk], strict=True)
            ]
            parts.append(tokenized(read, tokenizer, cut))
        else:
            seconds = [prefix(text, tokenizer, max_length) for text in examples.pairs[chunk]]
            parts.append(_encode_pairs(list(zip(texts, seconds, strict=True)), tokenizer, max_length))
    return dataclasses.replace(concatenated(parts), labels=examples.labels, labelled=examples.labelled)


def _encode_pairs(pairs: list[tuple[str, str]], tokenizer: Any, max_length: int) -> TokenizedExamples:
    """Pairs, truncated here: the library keeps every overflowing piece of one text with every piece of the other, in memory."""
    encodings = encode(tokenizer, pairs)
    ids, types = [one.ids for one in encodings], [one.type_ids for one in encodings]
    cut = [len(one) > max_length for one in ids]
    for number in np.flatnonzero(cut):
        places = _kept_places(encodings[number].sequence_ids, max_length, tokenizer.truncation_side)
        ids[number], types[number] = ([row[number][place] for place in places] for row in (ids, types))
    return from_rows(ids, types, tokenizer, cut)


def _kept_places(sequence_ids: Sequence[int | None], max_length: int, side: str) -> np.ndarray:
    """The tokens that "longest_first" keeps of a pair: the shorter text gets at most half of the room, the longer one the rest.

    sequence_ids: the text of each token, None of special ones.
    """
    owner = np.array([-1 if number is None else number for number in sequence_ids])
    texts = [np.flatnonzero(owner == number) for number in (0, 1)]
    room = max_length - int((owner < 0).sum())
    shorter, longer = sorted((0, 1), key=lambda number: len(texts[number]))
    least = min(len(texts[shorter]), room // 2)
    kept = {shorter: least, longer: room - least}
    places = [text[:count] if side == "right" else text[len(text) - count :] for text, count in ((texts[one], kept[one]) for one in (0, 1))]
    return np.sort(np.concatenate([np.flatnonzero(owner < 0), *places]))


def training_iterator(
    examples: TokenizedExamples, plan: BatchPlan, total_steps: int, pad_id: int, rows: np.ndarray | None = None
) -> "grain.DatasetIterator":
    """The batches of steps 0 to `total_steps`, prefetched by a thread; Orbax saves and restores the iterator itself.

    Each batch is a dict: `input_ids`, `attention_mask`, `token_type_ids` [rows, bucket] int32, `labels` [rows] and `weight` [rows]
    float32, all ones; and where some examples have no labels `labelled` [rows] float32, 1 where the label means something.

    rows: which of a batch's rows this process computes, of `batch_size`; None: all. The bucket is that of the whole batch, so all
    processes have the same shapes at the same step.
    """
    with extras.needed("train", "training"):
        import grain  # slow to import

    mine = slice(None) if rows is None else rows

    def batch_of(step: int) -> Batch:
        members, padded_length = plan.batch(step)
        rows = members[mine]
        return collate(examples, rows, padded_length, pad_id, np.ones(len(rows), np.float32))

    # One thread is ample for slicing memory, and does not fight the main thread for the interpreter.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCHED_BATCHES)
    return iter(grain.MapDataset.range(total_steps).map(batch_of).to_iter_dataset(options))


def move(iterator: "grain.DatasetIterator", step: int) -> None:
    """Set a training iterator to `step`, where a checkpoint of another number of processes holds no state for this one."""
    iterator.set_state(iterator.get_state() | {"next_index": step})
