"""`report`: a page that shows which words a model read, and how deep; or the curves of a training run."""

import argparse
import pathlib
from typing import Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import labelled, runtime
from transkimmer_jax.cli.answering import OF_HEADS
from transkimmer_jax.cli.threshold import add_threshold, require_skimming
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import ConfigError


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "report",
        help="a page that shows which words the model read, or how a run went",
        description="Write one HTML file that shows texts with their words shaded by the layers that computed them, what each text costs, "
        "and what the model answered; or, with --run, one with the curves of a training run. It needs no network.",
        allow_abbrev=False,
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    subject.add_argument("--run", metavar="WORKDIR", help="instead, a run of `train` or `distil`, which may still go on")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", metavar="FILE", help=".txt (a text a line), .jsonl or .csv file")
    source.add_argument("--task", help=f"instead, the validation split, with labels, of {labelled.TASKS}")
    parser.add_argument("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, e.g. report.html")
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        help="one, or two for pairs (default: the model's, or 'text'; of readers question and context)",
    )
    parser.add_argument("--label-column", metavar="COLUMN", help="of the labels, to mark errors (default: none)")
    parser.add_argument("--texts", type=int, default=200, help="of the file, its first (default: %(default)s)")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[], metavar="SHARE", help="more shares of FLOPs, for a slider, e.g. 0.6 0.3"
    )
    parser.add_argument("--title", help="of the page (default: by the folder's name)")
    add_threshold(parser)
    runtime.add_arguments(parser)
    defaults = {name: parser.get_default(name) for name in vars(parser.parse_args(["--run", "", "--output", ""]))}
    parser.set_defaults(command=lambda args: _report_run(args, defaults) if args.model is None else _report(args))


def _report_run(args: argparse.Namespace, defaults: dict[str, Any]) -> None:
    for name, value in defaults.items():
        if name not in ("run", "output", "title") and getattr(args, name) != value:
            raise ConfigError(f"--{name.replace('_', '-')} is of --model: a report of a run shows its curves")
    from transkimmer_jax.reporting.page import run_page
    from transkimmer_jax.reporting.runs import read_runs

    files.write_text(args.output, run_page(read_runs(args.run, args.title)))
    print(args.output)


def _report(args: argparse.Namespace) -> None:
    if args.input is None and args.task is None:
        raise ConfigError("a report of a model shows how it reads texts: give --input, or --task")
    if args.texts < 1:
        raise ConfigError(f"--texts must be at least 1, not {args.texts}")
    wrong = next((share for share in args.budgets if not 0 < share <= 1), None)
    if wrong is not None:
        raise ConfigError(f"--budgets are shares between 0 and 1, not {wrong}")
    # Imported here, so that --help answers at once.
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.reporting.contents import contents
    from transkimmer_jax.reporting.page import page

    folder = resolve(args.model)
    texts, truths = _of_task(args, folder) if args.task else _of_file(args, folder)
    engine = SkimEngine.from_pretrained(folder, threshold=args.threshold, depths=True, pairs=None, **runtime.options(args))
    require_skimming(args.model, engine.arch, budgets=args.budgets)
    tokenizer = pipeline.load_tokenizer(folder, engine.arch.vocab_size)
    title = args.title or f"What {_name(args.model)} read"
    files.write_text(args.output, page(contents(title, engine, tokenizer, texts, truths, args.budgets)))
    print(args.output)


def _name(model: str) -> str:
    """Of a model, for people: the folder's, or that of its run; of a hub id the id."""
    folder = pathlib.Path(model).resolve()
    if not folder.is_dir():
        return model
    return folder.parent.name if folder.name == "model" else folder.name


def _of_file(args: argparse.Namespace, folder: pathlib.Path) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """The first texts of a file, each of one part or two, and their labels where a column of them is named."""
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.data.files import Classes, read_label, read_labels
    from transkimmer_jax.data.records import column_text, is_text_file, read_example_records
    from transkimmer_jax.inference.answers import labels_of
    from transkimmer_jax.reporting.contents import listed

    saved = config_file.read(folder)
    names = saved.label_names
    head = saved.architecture.head
    if args.label_column and (names is None or head != "sequence_classification"):
        raise ConfigError(f"--label-column marks texts that a classifier puts in another class, and {args.model} is none: leave it out")
    answering = OF_HEADS[head]()
    columns = answering.checked_columns(tuple(args.text_columns or saved.task.text_columns or answering.columns))
    if is_text_file(args.input):
        if len(columns) == 2:
            raise ConfigError(f"--input {args.input} has a text a line, and {args.model} reads pairs: give a .jsonl or .csv file")
        columns = ("text",)
    texts: list[tuple[str, ...]] = []
    truths: list[str | None] = []
    classes = Classes(names or ())
    for where, record in read_example_records(args.input, (".jsonl", ".csv", ".txt")):
        texts.append(tuple(column_text(record, column, where) for column in columns))
        if args.label_column is None or names is None:
            truths.append(None)
        elif saved.architecture.multi_label:
            truths.append(listed(labels_of(read_labels(record, args.label_column, classes, where), names)))
        else:
            truths.append(names[int(read_label(record, args.label_column, classes, where))])
        if len(texts) == args.texts:
            break
    return texts, truths


def _of_task(args: argparse.Namespace, folder: pathlib.Path) -> tuple[list[tuple[str, ...]], list[str | None]]:
    """Texts of a task's validation split, drawn by seed 0, and the model's names of their classes, where the model has classes."""
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.data import sources
    from transkimmer_jax.data.examples import subsample
    from transkimmer_jax.data.tasks import get_task

    if args.text_columns or args.label_column:
        raise ConfigError("--text-columns and --label-column are of --input: a task has columns of its own")
    data = DataConfig(task=args.task, data_dir=args.data_dir)
    task = get_task(data)
    if task.head != "sequence_classification":
        raise ConfigError(f"--task {args.task} has no labels of texts: give --input")
    saved = config_file.read(folder)
    OF_HEADS[saved.architecture.head]().require_task(task, saved.task.text_columns, args.model)
    names = None
    if saved.architecture.head == "sequence_classification":
        labelled.require_same_labels(args.model, saved, task)
        names = saved.label_names
    examples = subsample(sources.load_split(task, next(iter(task.validation_splits.values())), data), args.texts, seed=0)
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    truths: list[str | None] = [None if names is None else names[label] for label in examples.labels]
    return list(zip(*columns, strict=True)), truths
