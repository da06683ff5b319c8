"""What callers of the Python API hand over, checked before it reaches a tokenizer or a program.

Every check returns the value as the engine takes it, or raises one line that names the argument and says what it takes.
"""

import collections.abc
import dataclasses
import logging
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.checkpoints.thresholds import FLOAT32_MAX, unboxed
from transkimmer_jax.config import LEAST_LENGTH
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.errors import ConfigError, DataError, ExampleError, InferenceError
from transkimmer_jax.models.arguments import require_in_vocabulary

Text = str | tuple[str, str]

_SHOWN = 60  # characters of a value in a message


_METHODS = {
    "sequence_classification": "predict",
    "sentence_embedding": "encode",
    "token_classification": "tag",
    "question_answering": "answer",
}


def require_head(head: str, wanted: str, method: str) -> None:
    """Raises `InferenceError` where a model has another head than the one that a method reads."""
    if head != wanted:
        kinds = (wanted.replace("_", " "), head.replace("_", " "))
        raise InferenceError(f"{method} is of a model for {kinds[0]}, and this one is for {kinds[1]}: call {_METHODS[head]}")


def checked_sequence(texts: Any, argument: str = "texts") -> Sequence[Any]:
    """A list, tuple, array or column of texts; the texts themselves are not looked at.

    Raises:
      DataError: a single text, an iterator, or what has no order.
    """
    if isinstance(texts, str | bytes | bytearray):
        raise DataError(f"{argument} is one text, {shown(texts)}, and would be read letter by letter: put it in a list")
    if isinstance(texts, np.ndarray):
        if texts.ndim == 0 or texts.ndim > 2:
            raise DataError(f"{argument} is an array of {texts.ndim} dimensions: give [N] texts, or [N, 2] for pairs")
        return texts.tolist()
    if isinstance(texts, collections.abc.Iterator):
        raise DataError(f"{argument} is a {type(texts).__name__}, which can be read only once: give a list, or call predict_stream")
    unordered = isinstance(texts, collections.abc.Mapping | collections.abc.Set)
    if unordered or not isinstance(texts, collections.abc.Sized) or not isinstance(texts, collections.abc.Iterable):
        raise DataError(f"{argument} is {_described(texts)}: give a list of strings, or of pairs of strings")
    return texts  # type: ignore[return-value]


def checked_stream(texts: Any, pairs: bool | None) -> Iterator[Any]:
    """An iterator over texts that may still be coming. pairs: as of `checked_texts`, which gets them window by window.

    Raises, at once or when it comes to a text:
      DataError: a single text, or what cannot be walked through in an order; a pair where the first is none, or the other way round.
    """
    if isinstance(texts, str | bytes | bytearray | np.ndarray):
        texts = checked_sequence(texts, "texts")
    elif isinstance(texts, collections.abc.Mapping | collections.abc.Set) or not isinstance(texts, collections.abc.Iterable):
        raise DataError(f"texts is {_described(texts)}: give an iterable of strings, or of pairs of strings")
    return iter(texts) if pairs is not None else _of_one_kind(texts)


def _of_one_kind(texts: Iterable[Any]) -> Iterator[Any]:
    """As the first one is."""
    expected = None
    for number, text in enumerate(texts):
        is_pair = _is_pair(number, text)
        expected = is_pair if expected is None else expected
        if is_pair != expected:
            raise _other_kind(number, is_pair)
        yield text


def _other_kind(number: int, is_pair: bool) -> DataError:
    given, wanted = ("a pair", "single texts") if is_pair else ("a single text", "pairs")
    return DataError(f"text {number} is {given}, expected {wanted}")


def checked_texts(texts: Iterable[Any], pairs: bool | None, first: int = 0) -> tuple[list[str], list[str] | None]:
    """The texts, and of pairs the second texts.

    Args:
      texts: what `checked_sequence` has passed, or a part of it.
      pairs: whether texts come in pairs; None: as the first one does.
      first: the number of the first text, for messages.

    Raises:
      DataError: something that is neither a string nor a pair of strings, the other of the two than expected, or characters that no
        tokenizer can read.
    """
    texts = list(texts)
    if not texts:
        return [], [] if pairs else None
    is_pair = [_is_pair(number, text) for number, text in enumerate(texts, start=first)]
    expected = is_pair[0] if pairs is None else pairs
    if (not expected) in is_pair:
        raise _other_kind(first + is_pair.index(not expected), not expected)
    columns = [[text[0] for text in texts], [text[1] for text in texts]] if expected else [texts]
    for column in columns:
        for number, text in enumerate(column, start=first):
            if not text.isascii():
                _require_unicode(number, text)
    return columns[0], columns[1] if expected else None


def checked_words(texts: Sequence[Any]) -> list[Any]:
    """Strings, or lists of words.

    Raises:
      DataError: neither, words that are no strings or none. ExampleError: both kinds in one list.
    """
    checked: list[Any] = []
    for number, text in enumerate(texts):
        if isinstance(text, str):
            _require_unicode(number, text)
            checked.append(text)
            continue
        words = text.tolist() if isinstance(text, np.ndarray) else text
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise DataError(f"text {number} must be a string or a list of words, not {shown(text)}")
        if not words:
            raise DataError(f"text {number} is a list without words: leave it out")
        for word in words:
            _require_unicode(number, word)
        checked.append(list(words))
    mixed = next((number for number, text in enumerate(checked) if isinstance(text, str) != isinstance(checked[0], str)), None)
    if mixed is not None:
        kinds = ("a string", "lists of words") if isinstance(checked[mixed], str) else ("a list of words", "strings")
        raise ExampleError("text", mixed, f"{kinds[0]} among {kinds[1]}: give one or the other")
    return checked


def checked_questions(question: Any, context: Any) -> tuple[list[str], list[str]]:
    """A question and its context, or as many contexts as questions, as two lists. Raises `DataError` for anything else."""
    if isinstance(question, str) != isinstance(context, str):
        raise DataError("question and context must both be texts, or both be lists of texts")
    if isinstance(question, str):
        question, context = [question], [context]
    questions, contexts = (
        checked_texts(checked_sequence(texts, argument), False)[0] for texts, argument in ((question, "question"), (context, "context"))
    )
    if len(questions) != len(contexts):
        raise DataError(f"{len(questions)} questions with {len(contexts)} contexts: give one context for each question")
    return questions, contexts


def checked_prompt(name: Any, prompt: Any, by_name: Mapping[str, str], default: str | None) -> str:
    """What stands before each text: a prompt, or one by name, or the default one; '' for none. Raises `ConfigError` for any other."""
    if prompt is not None:
        if not isinstance(prompt, str) or name is not None:
            raise ConfigError(f"prompt must be a text, and given without a prompt_name, not {shown(prompt)}")
        return prompt
    name = default if name is None else name
    if name is None:
        return ""
    if name not in by_name:
        known = ", ".join(map(repr, sorted(by_name))) or "none"
        raise ConfigError(f"prompt_name={shown(name)} is none of the model's prompts: {known}")
    return by_name[name]


def checked_threshold(threshold: Any, default: float, argument: str = "threshold") -> float:
    """A threshold of the gates; None takes the default. Infinite ones, and those beyond a float32, keep all tokens or none.

    Raises:
      ConfigError: no number, or NaN.
    """
    if threshold is None:
        return default
    threshold = unboxed(threshold)
    is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
    try:
        value = float(threshold) if is_number else math.nan
    except OverflowError:  # a whole number of more digits than any float
        value = math.nan
    if math.isnan(value):
        raise ConfigError(f"{argument} must be a number, not {shown(threshold)}")
    return value if abs(value) <= FLOAT32_MAX else math.copysign(math.inf, value)


def checked_size(value: Any, argument: str, least: int = 1) -> int:
    """A whole number of at least `least`. Raises `ConfigError` for any other value."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral) or value < least:
        raise ConfigError(f"{argument} must be a whole number of at least {least}, not {shown(value)}")
    return int(value)


def checked_batch(batch_tokens: Any, batch_size: Any) -> tuple[int | None, int | None]:
    """Tokens of a batch, or texts of a batch; None for both leaves it to the device. Raises `ConfigError` for both, or for no size."""
    if batch_tokens is not None and batch_size is not None:
        given = f"batch_tokens={shown(batch_tokens)} and batch_size={shown(batch_size)}"
        raise ConfigError(f"{given} both say how large a batch is: give one of them")
    return (
        None if batch_tokens is None else checked_size(batch_tokens, "batch_tokens"),
        None if batch_size is None else checked_size(batch_size, "batch_size"),
    )


def checked_max_length(max_length: Any, positions: int) -> int:
    """Tokens read of a text: at most as many as the model has positions, which None stands for. Raises `ConfigError` for no length."""
    return positions if max_length is None else min(checked_size(max_length, "max_length", LEAST_LENGTH), positions)


def checked_choice(value: Any, argument: str, choices: Sequence[str]) -> str | None:
    """One of some names; None is the default. Raises `ConfigError` for any other."""
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise ConfigError(f"{argument} must be {' or '.join(map(repr, choices))}, not {shown(value)}")
    return value


def shows_progress(show_progress_bar: bool | None) -> bool:
    """Whether to show a bar; None, as in sentence-transformers: where this package's notes are shown."""
    return logging.getLogger("transkimmer_jax").isEnabledFor(logging.INFO) if show_progress_bar is None else show_progress_bar


def checked_label_names(label_names: Any, num_labels: int) -> tuple[str, ...] | None:
    """A name for each class, or for the value of a regression; None for names by number. Raises `ConfigError` for another number or for
    equal names."""
    if label_names is None:
        return None
    if isinstance(label_names, str) or not isinstance(label_names, collections.abc.Sequence):
        raise ConfigError(f"label_names must be a list of strings, not {shown(label_names)}")
    names = tuple(label_names)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names) or len(names) != num_labels:
        raise ConfigError(f"label_names must be {num_labels} different strings, one for each class of the model, not {shown(names)}")
    return names


def checked_lengths(lengths: Any, max_length: int) -> list[int] | None:
    """Lengths of texts in tokens; None stands for any. Raises `ConfigError` for what is no list of lengths that the engine reads."""
    if lengths is None:
        return None
    if isinstance(lengths, str) or not isinstance(lengths, collections.abc.Sequence | np.ndarray) or not len(lengths):
        raise ConfigError(f"lengths must be a list of numbers of tokens, or None for any, not {shown(lengths)}")
    checked = [checked_size(length, f"lengths[{number}]") for number, length in enumerate(lengths)]
    if max(checked) > max_length:
        raise ConfigError(f"lengths has {max(checked)} tokens, more than the engine's max_length of {max_length}")
    return checked


def checked_tokens(examples: Any, vocab_size: int, type_vocab_size: int, max_length: int) -> TokenizedExamples:
    """Token ids that a model can look up. Labels are not looked at.

    Raises:
      DataError: arrays that do not fit each other, ids outside of the vocabulary, or an example without tokens.
      InferenceError: an example longer than `max_length`.
    """
    if not isinstance(examples, TokenizedExamples):
        raise DataError(f"examples is {_described(examples)}: give TokenizedExamples, or call predict with texts")
    ids, types, offsets = (np.asarray(getattr(examples, name)) for name in ("input_ids", "token_type_ids", "offsets"))
    for name, values in (("input_ids", ids), ("token_type_ids", types), ("offsets", offsets)):
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise DataError(f"examples.{name} must be a one-dimensional array of integers, not {values.dtype} of shape {values.shape}")
    if types.shape != ids.shape:
        raise DataError(f"examples.token_type_ids has {len(types)} entries for {len(ids)} input_ids: give one for each")
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(ids):
        ends = f"from {offsets[0]} to {offsets[-1]}" if len(offsets) else "empty"
        raise DataError(f"examples.offsets must go from 0 to the {len(ids)} of input_ids, and is {ends}")
    starts = offsets.astype(np.int64)
    lengths = starts[1:] - starts[:-1]
    if len(lengths) and lengths.min() < 1:
        raise DataError(f"examples.offsets gives example {lengths.argmin()} {lengths.min()} tokens: it needs at least one")
    if len(lengths) and lengths.max() > max_length:
        raise InferenceError(f"an example has {lengths.max()} tokens, more than the engine's max_length of {max_length}")
    require_in_vocabulary(ids, vocab_size, "examples.input_ids")
    if type_vocab_size > 1:  # one type, or none, says nothing, whatever the tokenizer writes
        require_in_vocabulary(types, type_vocab_size, "examples.token_type_ids")
    return dataclasses.replace(examples, input_ids=ids, token_type_ids=types, offsets=starts)


def shown(value: Any) -> str:
    """`value` as one short line."""
    if isinstance(value, str | bytes | bytearray):
        value = value[:_SHOWN]  # not the representation of 50 MB
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _described(value: Any) -> str:
    """A value by its kind: what it holds may be long, or may be gone once it was looked at."""
    if value is None or isinstance(value, numbers.Number):
        return repr(value)
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _is_pair(number: int, text: Any) -> bool:
    if isinstance(text, str):
        return False
    if isinstance(text, np.ndarray):
        text = text.tolist()
    if isinstance(text, tuple | list) and all(isinstance(part, str) for part in text):
        if len(text) == 2:
            return True
        raise DataError(f"text {number} has {len(text)} parts, expected a string or a pair of strings")
    raise DataError(f"text {number} is not a string or a pair of strings but {shown(text)}")


def _require_unicode(number: int, text: str) -> None:
    """Halves of a character come from careless decoding or from JSON escapes; tokenizers refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"text {number} is no valid Unicode ({error.reason} at character {error.start}): correct it") from error
