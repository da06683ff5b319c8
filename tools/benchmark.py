"""Time the same texts in every way to compute them: this engine, skimming or dense, and what else users have."""

import argparse
import json
import logging
import pathlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tools.contenders import ALL, WAYS, Contender, chosen
from tools.flags import add_threshold
from transkimmer_jax import termination
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import LEAST_LENGTH
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.evaluation import labelled
from transkimmer_jax.inference.answering import OF_HEADS
from transkimmer_jax.progress import tqdm

if TYPE_CHECKING:
    import numpy as np

    from transkimmer_jax.data.examples import Examples
    from transkimmer_jax.data.tasks import Task

logger = logging.getLogger("transkimmer_jax")

_CALIBRATED_ON = 1024  # texts, where the model folder says nothing of a threshold
_TOKENIZED = 3  # times, of which the median counts
_DESCRIPTION = f"""
{__doc__}

Results come setting by setting, and medians round by round on standard error. --synthetic without other flags takes the
shape of the packaged encoder minilm-6l, and three rounds: some minutes on two cores.
"""
_WAYS = "\n".join(f"  {name:<10} {what}" for name, what in WAYS.items())
_FIELDS = f"""
Contenders are named WAY:RUNTIME:PRECISION, where WAY is
{_WAYS}
and the names are
  {", ".join(map(str, ALL[: len(ALL) // 2]))},
  {", ".join(map(str, ALL[len(ALL) // 2 :]))}.
On a CPU all that have not JAX run, where their libraries are installed (the extras torch and openvino, and nncf); on an accelerator those
that have.

One JSON object a setting:
  contenders.NAME.
    examples_per_second, seconds, seconds_of_rounds   medians, and every round's, of --timed examples, others in each
    times_faster_than       of a skimming contender, over every other one: the median of the ratios in a round
    efficiency              of a skimming contender: times faster than packed in the same runtime and precision / flops_vs_unpadded
    metrics                 the task's, over all examples, where labels are known
    predictions_changed     answers other than those of the same weights in float32, of all examples
    batches, overflows, again, programs, compile_seconds   of this engine's compiled programs
  flops_vs_padded, flops_vs_unpadded   how many times fewer FLOPs than that dense model with and without padding
  layers, layers_dense                 of both
  decisions_flipped         of compacted computation in float32 against masked evaluation
  max_logit_difference      of the same, of texts without flipped decisions; null where every text has one
  tokenizing_seconds        for all examples; no contender's time has it
"""


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "benchmark",
        help="time of compacted inference against dense and masked",
        description=_DESCRIPTION,
        epilog=_FIELDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="folder of a skimming model, to be measured on --task or --data")
    parser.add_argument(
        "--dense", help="folder of the dense model to compare with (default: the model without predictors, which may be a part of that)"
    )
    parser.add_argument("--task", help=f"{labelled.TASKS}: its validation split")
    parser.add_argument("--data", metavar="FILE", help=".jsonl, .csv or .txt; labels are not needed and not read")
    parser.add_argument("--text-columns", nargs="+", help="columns of --data (default: the model's, or 'text')")
    parser.add_argument("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets)")
    parser.add_argument("--examples", type=int, help="of --task or --data only this many, drawn by seed 0; synthetic: this many")
    add_threshold(parser)
    parser.add_argument("--synthetic", action="store_true", help="instead, random weights and tokens: needs no model and no data")
    parser.add_argument(
        "--hidden-size", type=int, default=384, help="synthetic: H, with heads of 64 (of 32 below 768) and an inner size of 4 H"
    )
    parser.add_argument("--layers", type=int, default=6, help="synthetic (default: %(default)s)")
    parser.add_argument("--predictor-size", type=int, help="synthetic: width of the predictors (default: H / 4; the paper's: H)")
    parser.add_argument("--vocab-size", type=int, default=30522, help="synthetic (default: %(default)s)")
    parser.add_argument(
        "--length",
        type=int,
        nargs="+",
        help="synthetic: tokens of every text (default: 128); else: tokens read of a text (default: the model's)",
    )
    parser.add_argument(
        "--keep",
        default="0.9,0.8,0.6,0.4,0.3,0.2,0.15,0.12,0.1,0.08,0.06,0.05",
        help="synthetic: share of the tokens that each layer keeps, or 'all' (default: %(default)s, stretched to --layers)",
    )
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32], help="one setting each; 1: texts come alone (default: 32)")
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help="only these, or patterns such as 'compacted:*' (default: by the devices at hand)",
    )
    parser.add_argument("--timed", type=int, metavar="EXAMPLES", help="of a round, others in each (default: half of all)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which every contender runs once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="synthetic (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file, as a list")
    synthetic = {name: parser.get_default(name) for name in _SYNTHETIC}
    parser.set_defaults(command=lambda args: _benchmark(args, synthetic))


def _benchmark(args: argparse.Namespace, synthetic: dict[str, Any]) -> None:
    """synthetic: what flags of random models are where they are not given."""
    for name in ("repeats", "layers", "hidden_size", "predictor_size", "vocab_size", "examples", "timed"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    if min(args.batch_size) < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {min(args.batch_size)}")
    least = 1 if args.synthetic else LEAST_LENGTH
    if min(args.length or [least]) < least:
        raise ConfigError(f"--length must be at least {least}, not {min(args.length)}")
    if not 0 <= args.seed < 2**32:
        raise ConfigError(f"--seed must lie in [0, 2**32), not {args.seed}")
    sources = [name for name in ("task", "data") if getattr(args, name) is not None]
    if args.synthetic == (args.model is not None or bool(sources)):
        raise ConfigError("give either --synthetic, or --model with --task or --data")
    if not args.synthetic and (args.model is None or len(sources) != 1):
        raise ConfigError("--model and one of --task and --data belong together")
    for name, value in synthetic.items():
        if not args.synthetic and getattr(args, name) != value:
            raise ConfigError(f"--{name.replace('_', '-')} is of --synthetic: a model has its own")
    if args.text_columns is not None and (args.data is None or len(args.text_columns) > 2):
        raise ConfigError("--text-columns names one column or two of --data")
    for name in ("dense", "threshold"):
        if args.synthetic and getattr(args, name) is not None:
            raise ConfigError(f"--{name} goes with --model, not with --synthetic")
    workload_of, lengths = (_synthetic_workload, args.length or [128]) if args.synthetic else (_text_workload, args.length or [None])
    settings = [(length, batch_size) for length in lengths for batch_size in args.batch_size]
    import jax

    from tools.measurement import measure

    contenders, absent = chosen(args.contenders, jax.default_backend() == "cpu", _capable)
    results: list[dict[str, Any]] = []
    with termination.explained(lambda: _measured(results, len(settings), args.json)):
        for length, batch_size in tqdm(settings, desc="settings", disable=len(settings) == 1):
            workload = workload_of(args, length, batch_size)
            for name, reason in () if results else absent.items():
                tqdm.write(f"{name} is left out: {reason}", file=sys.stderr)
            result = measure(
                workload,
                contenders,
                batch_size=batch_size,
                repeats=args.repeats,
                timed=args.timed,
                after_round=lambda seconds: _show(seconds, args.repeats),
            )
            command = "python -m tools benchmark " + " ".join(_portable(args))
            results.append(result | {"left_out": absent, "command": command, "seed": args.seed})
            print(json.dumps(results[-1], indent=2))
            sys.stdout.flush()
            if args.json:
                # After every setting: a long table that is cut off has its beginning.
                files.write_json(args.json, results)


def _capable(contender: Contender) -> bool:
    """Whether the processor has instructions for a contender's precision; without them OpenVINO would compute in another."""
    if (contender.runtime, contender.precision) != ("openvino", "bfloat16"):
        return True
    from transkimmer_jax.onnx.sessions import openvino_has_bfloat16

    return openvino_has_bfloat16()


def _measured(results: list[dict[str, Any]], count: int, path: str | None) -> str:
    """What a benchmark that is stopped leaves."""
    return f"{len(results)} of {count} settings are measured" + (f", as {path} says" if path and results else "")


def _show(seconds: dict[str, list[float]], repeats: int) -> None:
    """Medians so far, the quickest contender first."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    count = len(next(iter(seconds.values())))
    texts = ", ".join(f"{name} {medians[name]:.3g} s" for name in sorted(medians, key=medians.__getitem__))
    tqdm.write(f"after round {count} of {repeats}: {texts}", file=sys.stderr)


_SYNTHETIC = ("hidden_size", "layers", "predictor_size", "vocab_size", "keep", "seed")


def _portable(args: argparse.Namespace) -> list[str]:
    """The arguments, without paths of this machine."""
    words = []
    for name, value in vars(args).items():
        if name in ("command", "arguments", "json", "data_dir") or value is None or value is False:
            continue
        if name in _SYNTHETIC and not args.synthetic:
            continue
        if name in ("model", "dense", "data"):
            value = "FILE" if name == "data" else "DIR"
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, *map(shlex.quote, map(str, value))] if isinstance(value, list) else [flag, str(value)]
    return words


def _synthetic_workload(args: argparse.Namespace, length: int, batch_size: int):
    from tools.workloads import synthetic
    from transkimmer_jax.models.architecture import Architecture, SkimArchitecture, fresh_predictor_size

    head = 64 if args.hidden_size >= 768 else 32
    if args.hidden_size % head:
        raise ConfigError(f"--hidden-size must be a multiple of {head}, not {args.hidden_size}")
    arch = Architecture(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // head,
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=max(512, length),
        skim=SkimArchitecture(predictor_size=args.predictor_size or fresh_predictor_size(args.hidden_size)),
    )
    return synthetic(arch, shares(args.keep, args.layers), batch_size, length, args.seed, args.examples)


def shares(text: str, layers: int) -> list[float] | None:
    """Of the tokens, kept by each layer, as --keep says; None: all. Raises `ConfigError` for anything but falling numbers in (0, 1]."""
    if text == "all":
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--keep must be numbers with commas between, or 'all', not {text!r}") from error
    if any(not 0 < value <= 1 for value in values) or sorted(values)[::-1] != values:
        raise ConfigError(f"--keep needs falling numbers in (0, 1], as 0.9,0.5,0.2, not {text}")
    if len(values) != layers:
        import numpy as np

        values = np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, len(values)), values).tolist()
    return values


def _text_workload(args: argparse.Namespace, length: int | None, batch_size: int):
    """The model on the texts of --task or --data."""
    from tools.workloads import Workload
    from transkimmer_jax.checkpoints import config_file, sentence_transformers
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.config import DataConfig
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.data.tasks import get_task
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models.heads import TranskimmerForSequenceClassification

    folder = resolve(args.model)
    config = config_file.read(folder)
    trained_on = config.task
    task = None if args.data else get_task(DataConfig(task=args.task, data_dir=args.data_dir))
    if config.architecture.head != "sequence_classification":
        head = config.architecture.head.replace("_", " ")
        raise CheckpointError(f"{args.model} is for {head}: classifiers and cross-encoders alone are measured here")
    max_length = labelled.read_length(args.model, folder, config, task, length, "--length")
    model = TranskimmerForSequenceClassification.from_pretrained(folder, dense=None, complete=True)
    if model.arch.skim is None:
        raise CheckpointError(f"{args.model} is a dense model: there is nothing to compact")
    tokenizer = pipeline.load_tokenizer(folder, model.arch.vocab_size)
    answering = OF_HEADS[config.architecture.head]()
    if task is not None:
        answering.require_task(task, trained_on.text_columns, args.model)
    texts, others = _texts(args, task, answering.columns_of(args.text_columns, trained_on.text_columns, args.model))
    prompt = sentence_transformers.read_settings(folder, model.arch.head, config.values).default_text
    seconds = []
    for _ in range(_TOKENIZED):
        started = time.perf_counter()
        examples = pipeline.tokenize(texts.behind(prompt), tokenizer, max_length)
        seconds.append(time.perf_counter() - started)
    # As the model is served, unless the threshold is another.
    calibration = Calibration.load(folder, model.arch.num_hidden_layers) if args.threshold is None else None
    threshold = args.threshold if args.threshold is not None else model.arch.skim.threshold
    metrics = None
    one_label = not config.architecture.multi_label  # as tasks have
    if task is not None and one_label and config_file.same_labels(config.label_names, task.label_names):
        config_file.warn_of_assumed_order(args.model, config.label_names, task.name, task.label_names)
        metrics = _metrics(task, examples.labels)
    dense = None
    if args.dense is not None:
        labelled.require_comparable(args.dense, args.model)
        dense = TranskimmerForSequenceClassification.from_pretrained(args.dense, dense=True)
    elif not model.arch.is_whole:
        logger.warning("%s is a part of its dense model, and is compared with that part: --dense names the whole", args.model)
    return Workload(
        name=pathlib.Path(args.data).name if task is None else task.name,
        model=model,
        examples=examples,
        sample=lambda: pipeline.tokenize(others().behind(prompt), tokenizer, max_length),
        padded_length=max_length,
        threshold=threshold,
        calibration=calibration,
        dense=dense,
        metrics=metrics,
        tokenizing_seconds=statistics.median(seconds),
    )


def _metrics(task: "Task", labels: "np.ndarray") -> "Callable[[np.ndarray], dict[str, float]]":
    def metrics(logits: "np.ndarray") -> dict[str, float]:
        from transkimmer_jax.evaluation.metrics import score_logits

        return score_logits(task, logits, labels)

    return metrics


def _texts(args: argparse.Namespace, task: "Task | None", text_columns: tuple[str, ...]) -> "tuple[Examples, Callable[[], Examples]]":
    """What is measured, and how texts to calibrate on are had: of a task from its training set, of a file by another draw from it."""
    from transkimmer_jax.config import DataConfig
    from transkimmer_jax.data import sources
    from transkimmer_jax.data.examples import subsample
    from transkimmer_jax.data.files import read_texts

    if task is None:
        texts = read_texts(args.data, text_columns)
        return subsample(texts, args.examples, seed=0), lambda: subsample(texts, _CALIBRATED_ON, seed=1)
    data = DataConfig(task=args.task, data_dir=args.data_dir)
    examples = sources.load_split(task, next(iter(task.validation_splits.values())), data)
    return (
        subsample(examples, args.examples, seed=0),
        lambda: subsample(sources.load_split(task, task.train_split, data), _CALIBRATED_ON, seed=1),
    )
