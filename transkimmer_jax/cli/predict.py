"""`predict`: labels and kept tokens of texts, one JSON object a line."""

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from transkimmer_jax import files
from transkimmer_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from transkimmer_jax.progress import tqdm

if TYPE_CHECKING:
    from transkimmer_jax.inference.engine import Answer, SkimEngine

_WINDOW = 4096  # texts read, sorted by length and answered together: what is in memory at a time
_ANSWERED = ("label", "probabilities", "tokens", "kept", "truncated")


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "predict",
        help="labels of texts, as JSON lines",
        description="Label texts. Each becomes a line of JSON: copied columns, label, probabilities, tokens, kept share, truncated.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    parser.add_argument("--input", default="-", metavar="FILE", help="a .jsonl, .csv or .txt file (default: standard input)")
    parser.add_argument("--output", default="-", metavar="FILE", help="JSON lines, written whole or not at all (default: standard output)")
    parser.add_argument(
        "--format",
        choices=("jsonl", "csv", "text"),
        help="of the input; text is one text a line (default: by the file's name; jsonl for standard input)",
    )
    parser.add_argument("--text-columns", nargs="+", metavar="COLUMN", help="one, or two for pairs (default: the model's, or 'text')")
    parser.add_argument(
        "--copy", nargs="+", metavar="COLUMN", help="columns of the input to repeat in the output (default: 'id', if there)"
    )
    parser.add_argument("--threshold", type=float, help="keep a token where its margin exceeds this (default: the model's)")
    parser.add_argument("--max-length", type=int, help="tokens read of a text (default: the model's)")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a batch (default: by the device)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of weights and matrix products (default: the model's)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(command=_predict)


def _check(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for what cannot be meant."""
    for name, least in (("max_length", 3), ("batch_tokens", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if args.threshold is not None and math.isnan(args.threshold):
        raise ConfigError("--threshold must be a number, not nan")
    taken = next((column for column in args.copy or () if column in _ANSWERED), None)
    if taken is not None:
        raise ConfigError(f"--copy {taken}: the output has a {taken!r} of its own; rename the column")


def _text_columns(args: argparse.Namespace, trained_on: dict[str, Any]) -> tuple[str, ...]:
    """Where the texts are. Raises `ConfigError` where the model was trained on another number of columns."""
    of_model = trained_on.get("text_columns")
    if _format(args) == "text":
        if args.text_columns:
            raise ConfigError("--text-columns is for jsonl and csv: in the text format each line is a text")
        if of_model is not None and len(of_model) == 2:
            raise ConfigError(f"{args.model} reads pairs of texts, and the text format has one a line: give jsonl or csv")
        return ("text",)
    columns = tuple(args.text_columns or of_model or ("text",))
    if len(columns) > 2:
        raise ConfigError(f"--text-columns names one column or two, not {len(columns)}")
    if of_model is not None and len(columns) != len(of_model):
        wanted = "pairs: name two columns" if len(of_model) == 2 else "single texts: name one column"
        raise ConfigError(f"--text-columns {' '.join(columns)}, but {args.model} reads {wanted}")
    return columns


def _format(args: argparse.Namespace) -> str | None:
    return args.format or ("text" if args.input.lower().endswith(".txt") else None)


def _predict(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.weights.files import read_config, resolve

    _check(args)
    folder = resolve(args.model)
    columns = _text_columns(args, read_config(folder).get("task", {}))
    options = {"max_length": args.max_length} if args.max_length is not None else {}
    engine = SkimEngine.from_pretrained(
        folder, dtype=args.dtype, threshold=args.threshold, batch_tokens=args.batch_tokens, pairs=len(columns) == 2, **options
    )
    limit = engine.arch.max_position_embeddings
    if args.max_length is not None and args.max_length > limit:
        raise CheckpointError(f"{args.max_length} tokens are more than the {limit} positions of {args.model}: give a lower --max-length")
    engine.programs.progress = not args.quiet
    try:
        summary = _answer(args, columns, engine)
    except BrokenPipeError:
        return  # whoever reads has seen enough, as `head` does
    print(summary, file=sys.stderr)


def _answer(args: argparse.Namespace, columns: tuple[str, ...], engine: "SkimEngine") -> str:
    """Read, answer and write window by window; a line about it all."""
    started, count, kept = time.perf_counter(), 0, 0.0
    with _output(args.output) as file, tqdm(desc="answered", unit=" texts", disable=args.quiet) as bar:
        examples = _read(args, columns)
        while window := list(itertools.islice(examples, _WINDOW)):
            answers = engine.predict([text for text, _ in window], progress=not args.quiet)
            for (_, copied), answer in zip(window, answers, strict=True):
                file.write(json.dumps(copied | _described(answer)) + "\n")
            file.flush()
            count += len(window)
            kept += sum(answer.kept for answer in answers)
            bar.update(len(window))
    seconds, programs = time.perf_counter() - started, engine.programs
    share = f"{kept / count:.3f}" if count else "none"
    return (
        f"{count} texts in {seconds:.1f} s ({count / seconds:.1f} texts/s, {programs.compile_seconds:.1f} s of it compiling),"
        f" mean share kept: {share}, truncated: {engine.statistics.truncated},"
        f" programs compiled: {len(programs)}, overflows: {engine.statistics.overflows}"
    )


def _read(args: argparse.Namespace, columns: tuple[str, ...]) -> "Iterator[tuple[str | tuple[str, str], dict[str, Any]]]":
    """(text or pair, columns to copy) of every record."""
    from transkimmer_jax.data import sources

    for where, record in sources.read_records(args.input, _format(args)):
        texts = [sources.column_text(record, column, where, "--text-columns") for column in columns]
        for column, text in zip(columns, texts, strict=True):
            try:
                text.encode()
            except UnicodeEncodeError as error:  # JSON can escape halves of a character, tokenizers cannot read them
                raise DataError(f"{where}: column {column!r} is no valid Unicode ({error.reason}): correct it") from error
        if args.copy is None:
            copied = {"id": record["id"]} if "id" in record else {}
        else:
            copied = {column: sources.column_value(record, column, where, "--copy") for column in args.copy}
        yield (texts[0] if len(texts) == 1 else (texts[0], texts[1])), copied


def _described(answer: "Answer") -> dict[str, Any]:
    values = {name: getattr(answer, name) for name in _ANSWERED}
    if answer.probabilities is None:
        del values["probabilities"]
    return values


@contextlib.contextmanager
def _output(path: str) -> Iterator[TextIO]:
    if path != "-":
        with files.replaced_file(path) as file:
            yield file
        return
    try:
        with files.explained("standard output"):
            yield sys.stdout
            sys.stdout.flush()
    except (BrokenPipeError, TrainingError):
        # What still waits to be written would fail again, with a traceback, when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
