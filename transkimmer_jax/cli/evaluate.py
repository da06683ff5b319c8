"""`evaluate`: metric, tokens kept and FLOPs of a model on a task or a file."""

import argparse
import json
import sys
from typing import Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import labelled, runtime
from transkimmer_jax.cli.threshold import add_threshold, require_skimming
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import ConfigError, InferenceError


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="metric, tokens kept and FLOPs of a model folder",
        description="Evaluate a model folder on a task or a file: JSON on standard output, tables for people on standard error. An "
        "embedder is evaluated by the cosines of pairs of texts that have a score, such as those of glue/stsb.",
        allow_abbrev=False,
    )
    labelled.add_arguments(parser)
    runtime.add_arguments(parser)
    parser.add_argument("--pooling", choices=("mean", "cls"), help="evaluate a bare encoder as an embedder that pools so")
    add_threshold(parser)
    parser.add_argument(
        "--mode",
        choices=("compacted", "masked"),
        default="compacted",
        help="compute kept tokens only, as a served model does, or all of them under a mask, as training does (default: compacted)",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="also write one JSON line a text, in their order: label, predicted, probabilities, kept; and split, where there are several",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.set_defaults(command=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.checkpoints.locations import resolve

    if args.pooling or config_file.read(resolve(args.model)).architecture.head == "sentence_embedding":
        _evaluate_embedder(args)
    else:
        _evaluate_labelled(args)


def _evaluate_embedder(args: argparse.Namespace) -> None:
    """By cosines of pairs that people have scored."""
    import jax

    from transkimmer_jax.evaluation import similarity
    from transkimmer_jax.inference.engine import SkimEngine

    if args.mode == "masked" or args.predictions:
        raise ConfigError(f"{args.model} is an embedder: it is evaluated by cosines alone, without --mode masked and --predictions")
    task, splits = labelled.load_pairs(args)
    engine = SkimEngine.from_pretrained(
        args.model,
        pooling=args.pooling,
        max_length=args.max_length,
        batch_size=args.batch_size,
        threshold=args.threshold,
        **runtime.options(args),
    )
    runtime.require_positions(args.model, engine.arch, args.max_length)
    metrics, costs = {}, []
    for name, split in splits.items():
        texts = dict.fromkeys([*split.texts, *(split.pairs or [])])  # many stand in several pairs
        vectors = similarity.embed(engine, list(texts))
        costs.append(vectors)
        row = {text: number for number, text in enumerate(texts)}
        firsts, seconds = (vectors.values[[row[text] for text in column]] for column in (split.texts, split.pairs or []))
        metrics[name] = similarity.correlations(firsts, seconds, split.labels)
    first = next(iter(metrics.values()))
    result = {
        "metric": "spearman", "value": first["spearman"], "metrics": metrics,
        "examples": {name: len(split) for name, split in splits.items()},
        "kept_tokens": costs[0].kept_tokens, "flops_vs_unpadded": costs[0].dense_flops / costs[0].flops,
        "task": task.name, "data": args.data, "model": args.model, "threshold": engine.threshold,
        "device": jax.devices()[0].device_kind,
    }  # fmt: skip
    _tell(result, args.json)


def _tell(result: dict[str, Any], file: str | None) -> None:
    """Print a result, and write it to a file where one is given."""
    if file:
        files.write_json(file, result)
    # A field a line: a matrix would fill the screen with a number a line.
    print("{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()) + "\n}")


def _evaluate_labelled(args: argparse.Namespace) -> None:
    """By labels of texts, of words, or answers."""
    # Imported here, so that --help answers at once.
    import jax
    from flax import nnx

    from transkimmer_jax.data.batches import evaluation_batches
    from transkimmer_jax.data.prepared import warn_of_cut
    from transkimmer_jax.evaluation import masked, reports, summary
    from transkimmer_jax.evaluation.metrics import require_scorer
    from transkimmer_jax.inference.engine import SkimEngine

    if args.mode == "masked" and (given := [name for name, value in runtime.options(args).items() if value is not None]):
        raise ConfigError(f"--{given[0]} is of compacted computation: leave it out, or --mode masked")
    loaded = labelled.load(args)
    model, task = loaded.model, loaded.task
    require_skimming(args.model, model.arch, threshold=args.threshold)
    require_scorer(task)
    if args.predictions and task.head != "sequence_classification":
        raise ConfigError(f"--predictions are of classes and values, and {args.model} is for {task.head.replace('_', ' ')}")
    threshold = loaded.threshold if args.threshold is None else args.threshold
    if args.mode == "compacted":
        engine = SkimEngine(
            model,
            max_length=task.max_length,
            calibration=loaded.calibration,
            batch_size=args.batch_size,
            threshold=args.threshold,
            **runtime.options(args),
        )
    else:
        graph, params = nnx.split(model)
        step = masked.evaluation_step(graph)
    evaluations, reported, lines = {}, {}, []
    for name, split in loaded.splits.items():
        if args.mode == "compacted":
            predictions = engine.predict_tokenized(split.tokenized, progress=True)
        else:
            lengths = DataConfig().length_buckets
            batches = evaluation_batches(split.tokenized, args.batch_size, lengths, task.max_length, loaded.pad_id)
            predictions = masked.predict(step, params, batches, batches.examples, threshold, f"evaluating {name}")
        if len(predictions.not_finite()):
            raise InferenceError(f"{args.model} gives answers that are not finite: its weights cannot be used")
        evaluations[name] = summary.summarize(predictions, split.labels, task, model.arch)
        if task.head != "sequence_classification":
            continue
        reported[name] = reports.report(task, predictions.logits, split.labels)
        for answer in reports.answers(task, predictions, split.labels) if args.predictions else ():
            lines.append(json.dumps(({"split": name} if len(loaded.splits) > 1 else {}) | answer) + "\n")
    result = summary.describe(task, evaluations, {name: split.count for name, split in loaded.splits.items()}) | {
        "truncated": {name: int(split.tokenized.truncated.sum()) for name, split in loaded.splits.items()},
        "task": task.name, "data": args.data, "model": args.model, "threshold": threshold, "mode": args.mode,
        "device": jax.devices()[0].device_kind, "reports": reported,
    }  # fmt: skip
    if args.predictions:
        files.write_text(args.predictions, "".join(lines))
    _tell(result, args.json)
    if task.head == "token_classification":
        for name, split in loaded.splits.items():
            warn_of_cut(split.tokenized, f"texts of the {name}", f"--max-length={task.max_length}")
    for name, values in reported.items():
        print(f"{loaded.source if len(reported) == 1 else f'{task.name}, {name} split'}:\n{reports.text(values)}", file=sys.stderr)
