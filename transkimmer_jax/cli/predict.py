"""`predict`: what a model says of texts, one JSON object a line."""

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from transkimmer_jax import memory, termination
from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import options, shards
from transkimmer_jax.cli.options import LENGTH, POOLING, Command
from transkimmer_jax.cli.shards import Shard
from transkimmer_jax.data import records
from transkimmer_jax.errors import ConfigError, DataError, ExampleError, TrainingError
from transkimmer_jax.inference.answering import OF_HEADS, Answering
from transkimmer_jax.progress import tqdm

if TYPE_CHECKING:
    from transkimmer_jax.inference.engine import SkimEngine

_WINDOW_CHARACTERS = 1 << 26  # of the texts that are in memory at a time, beside the last of them
# A text, a pair or a list of words, the columns to copy, and where the example stands.
Example = tuple[Any, dict[str, Any], str]


@click.command("predict", cls=Command, short_help="Labels, vectors, tags or answers of texts, as JSON lines.")
@options.model
@click.option("--input", multiple=True, metavar="FILE", help="Files, or quoted patterns such as 'part-*.jsonl' (default: standard input).")
@click.option("--output", metavar="FILE", help="For one input: JSON lines, written whole or not at all (default: standard output).")
@click.option("--output-dir", metavar="DIR", help="For any number of files: a shard of JSON lines for each.")
@click.option("--overwrite", is_flag=True, help="Answer again the files whose shards are in --output-dir.")
@click.option("--process-id", type=int, metavar="I", help="Of this process, from 0 (default: JAX_PROCESS_ID, or 0).")
@click.option("--num-processes", type=int, metavar="N", help="Of all that share the files (default: JAX_NUM_PROCESSES, or 1).")
@click.option(
    "--format",
    type=click.Choice(("jsonl", "csv", "text")),
    help="Of every input; text is one text a line (default: by the file's name; jsonl for standard input).",
)
@click.option("--text-columns", multiple=True, metavar="COLUMN", help="One; of pairs or questions two (default: the model's, or 'text').")
@click.option("--copy", multiple=True, metavar="COLUMN", help="Columns to repeat in the output (default: 'id', if there).")
@click.option("--pooling", type=POOLING, help="Embed texts with a bare encoder, with this pooling.")
@click.option("--prompt-name", metavar="NAME", help="Of an embedder: its prompt before each text (default: its default).")
@options.threshold()
@click.option("--max-length", type=LENGTH, help="Tokens read of a text (default: the model's).")
@options.runtime
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(**given: Any) -> None:
    """Answer texts. Each becomes a line of JSON: copied columns, the answer, tokens, kept share, truncated.

    \b
    Answers are
      of a classifier or cross-encoder   label, probabilities (a multi-label classifier's label is a list)
      of an embedder                     embedding
      of a tagger                        tags, each with word, label, score, start, end
      of a reader                        answer, start, end, score, no_answer_score

    Where a copied column has one of these names, as in --copy label, the answers' names begin with 'predicted_'.

    Several files are answered into --output-dir, each X into the shard <stem of X>.jsonl, which is written whole or not at all. The same
    command goes on after an interruption: it skips finished shards by their names.

    Processes can share the files without talking to each other: process I of N takes every N-th of the sorted inputs, from the I-th on.
    """
    args = argparse.Namespace(**given)
    own = _shards(args)
    with termination.explained(lambda: _kept(args)):
        _predict_shards(args, own)


def _field_names(args: argparse.Namespace, fields: Sequence[str]) -> dict[str, str]:
    """What the output calls the fields of an answer. Raises `ConfigError` where that is the name of a copied column."""
    copied = set(args.copy or ())
    prefix = "predicted_" if copied & set(fields) else ""
    names = {name: prefix + name for name in fields}
    taken = sorted(copied & set(names.values()))
    if taken:
        raise ConfigError(f"--copy {taken[0]}: the answers have a field {taken[0]!r} of their own")
    return names


def _shards(args: argparse.Namespace) -> list[Shard]:
    """What this process is to answer. Raises `ConfigError` for inputs and outputs that do not go together."""
    inputs = shards.expand(args.input or ["-"])
    if args.output_dir is None:
        if len(inputs) > 1:
            raise ConfigError(f"{len(inputs)} inputs need --output-dir, a folder for the answers to each")
        for flag, given in (
            ("--overwrite", args.overwrite),
            ("--process-id", args.process_id is not None),
            ("--num-processes", args.num_processes is not None),
        ):
            if given:
                raise ConfigError(f"{flag} is for --output-dir")
        output = args.output or "-"
        if "-" not in (inputs[0], output) and os.path.realpath(inputs[0]) == os.path.realpath(output):
            raise ConfigError(f"--output {output} is the input itself, which the answers would replace: take another file")
        return [Shard(inputs[0], output, overwrite=True)]
    if args.output is not None:
        raise ConfigError("--output and --output-dir: give one of them")
    if "-" in inputs:
        raise ConfigError("--output-dir names answers after their files, and standard input has no name: give --input, or --output")
    index, count = shards.process_of(args.process_id, args.num_processes)
    return shards.plan(inputs, args.output_dir, args.overwrite)[index::count]


def _text_columns(args: argparse.Namespace, path: str, of_model: tuple[str, ...] | None, answering: Answering) -> tuple[str, ...]:
    """Where the texts of a file are. Raises `ConfigError` where the model was trained on another number of columns."""
    if _format(args, path) == "text":
        where = "" if args.output_dir is None else f"{path}: "
        if args.text_columns:
            raise ConfigError(f"{where}--text-columns is for jsonl and csv: in the text format each line is a text")
        if len(of_model or answering.columns) == 2:
            raise ConfigError(f"{where}{args.model} reads pairs of texts, and the text format has one a line: give jsonl or csv")
        return ("text",)
    return answering.columns_of(args.text_columns, of_model, args.model)


def _format(args: argparse.Namespace, path: str) -> str | None:
    return args.format or ("text" if records.is_text_file(path) else None)


def _kept(args: argparse.Namespace) -> str:
    """What there is of a command that is interrupted."""
    if args.output_dir is not None:
        again = "all files again" if args.overwrite else "the other files"
        return f"files that are answered stay so, and the same command answers {again}"
    if args.output is not None:
        return f"{args.output} is not written; the same command starts again"
    return "the same command starts again"


def _predict_shards(args: argparse.Namespace, own: list[Shard]) -> None:
    left = [shard for shard in own if not shard.is_finished()]
    if not left:  # and no model need be loaded
        print(_answered_before(len(own), len(own)), file=sys.stderr)
        return
    # At once, not after a model was loaded, nor after the hours that the other files take.
    for shard in left:
        records.require_readable(shard.input)

    # Imported here, so that --help answers at once.
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.requirements import require_positions

    folder = resolve(args.model)
    saved = config_file.read(folder)
    head = "sentence_embedding" if args.pooling else saved.architecture.head
    answering = OF_HEADS[head](args.prompt_name)
    names = _field_names(args, answering.fields)
    of_model = saved.task.text_columns if head == saved.architecture.head else None
    columns = {shard.input: _text_columns(args, shard.input, of_model, answering) for shard in own}
    for shard in left:
        _read_first(args, shard, columns, answering)
    memory.give_back_freed_memory()  # a long line was there several times while it was read
    length = {"max_length": args.max_length} if args.max_length is not None else {}
    # The number of columns is the same for all: two come from the model or from --text-columns, and files of text go with neither.
    pairs = len(columns[own[0].input]) == 2
    engine = SkimEngine.from_pretrained(
        folder,
        pooling=args.pooling,
        threshold=args.threshold,
        pairs=pairs,
        runtime=args.runtime,
        provider=args.provider,
        precision=args.precision,
        **length,
    )
    memory.give_back_freed_memory()  # and so were the weights while the engine was made
    require_positions(args.model, engine.arch, args.max_length)
    try:
        summary = _answer(args, own, columns, engine, answering, names)
    except BrokenPipeError:
        return  # whoever reads has seen enough, as `head` does
    print(summary, file=sys.stderr)


def _read_first(args: argparse.Namespace, shard: Shard, columns: dict[str, tuple[str, ...]], answering: Answering) -> None:
    """Raises `DataError` where the first record of a file is not to be read, or holds no text in its place. Nothing is kept of it: beside
    the model that is loaded next, a long one would take the memory."""
    if os.path.isfile(shard.input):  # what comes through a pipe comes when it comes, and once
        next(_read(args, shard.input, columns[shard.input], answering), None)


def _answer(
    args: argparse.Namespace,
    own: list[Shard],
    columns: dict[str, tuple[str, ...]],
    engine: "SkimEngine",
    answering: Answering,
    names: dict[str, str],
) -> str:
    """Answer file by file what is left; a line about it all. names: of an answer's fields, see `_field_names`."""
    started, count, kept, skipped = time.perf_counter(), 0, 0.0, 0
    with tqdm(desc="answered", unit=" texts", disable=args.quiet) as bar:
        for number, shard in enumerate(own, start=1):
            if shard.is_finished():
                skipped += 1
                continue
            if args.output_dir is not None:
                bar.set_postfix(file=f"{number} of {len(own)}")
            examples = _read(args, shard.input, columns[shard.input], answering)
            answer = functools.partial(answering.answer, engine, progress=not args.quiet)
            with shards.replaced_shard(shard.output) if args.output_dir is not None else _output(shard.output) as file:
                texts, shares = _answer_file(file, examples, answer, names, bar)
            count, kept = count + texts, kept + shares
    seconds, statistics = time.perf_counter() - started, engine.statistics
    share = f"{kept / count:.3f}" if count else "none"
    return (
        f"{count} texts in {seconds:.1f} s ({count / seconds:.1f} texts/s), mean share kept: {share}, truncated: {statistics.truncated}"
        + (f", programs compiled: {statistics.programs} in {statistics.compile_seconds:.1f} s" if statistics.programs else "")
        + ("" if args.output_dir is None else f"; {_answered_before(skipped, len(own))}")
    )


def _answered_before(count: int, files: int) -> str:
    return f"{count} of {files} files were there already"


def _answer_file(
    file: TextIO,
    examples: Iterator[Example],
    answer: Callable[[list[Any]], list[dict[str, Any]]],
    names: dict[str, str],
    bar: tqdm,
) -> tuple[int, float]:
    """Read, answer and write window by window; how many texts, and the sum of the shares kept of them."""
    from transkimmer_jax.inference.hardware import STREAM_WINDOW

    count, kept = 0, 0.0
    for window in _windows(examples, STREAM_WINDOW):
        try:
            answers = answer([text for text, _, _ in window])
        except ExampleError as error:
            raise DataError(f"{window[error.number][2]}: {error.reason}") from error
        for (_, copied, _), fields in zip(window, answers, strict=True):
            file.write(json.dumps(copied | {names[name]: value for name, value in fields.items()}, allow_nan=False) + "\n")
        file.flush()
        count += len(window)
        kept += sum(fields["kept"] for fields in answers)
        bar.update(len(window))
    return count, kept


def _windows(examples: Iterator[Example], most: int) -> Iterator[list[Example]]:
    """What is in memory at a time: `most` examples, or fewer of long texts."""
    window: list[Example] = []
    characters = 0
    for example in examples:
        window.append(example)
        text = example[0]
        characters += len(text) if isinstance(text, str) else sum(map(len, text))
        if len(window) == most or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _read(args: argparse.Namespace, path: str, columns: tuple[str, ...], answering: Answering) -> Iterator[Example]:
    """The input of every record of a file, and its columns to copy."""
    for where, record in records.read_records(path, _format(args, path)):
        text = answering.read(record, columns, where)
        if not args.copy:
            copied = {"id": record["id"]} if "id" in record else {}
        else:
            copied = {column: records.column_value(record, column, where) for column in args.copy}
        for column, value in copied.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:  # Python reads NaN and Infinity, which JSON does not have
                raise DataError(f"{where}: column {column!r} holds NaN or Infinity, which are no JSON: correct it") from error
        yield text, copied, where


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
