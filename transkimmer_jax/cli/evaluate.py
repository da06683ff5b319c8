"""`evaluate`: metric, tokens kept and FLOPs of a model on a task or a file."""

import argparse
import json
import sys

from transkimmer_jax import files
from transkimmer_jax.cli import labelled, runtime
from transkimmer_jax.cli.threshold import add_threshold
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import InferenceError


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="metric, tokens kept and FLOPs of a model folder",
        description="Evaluate a model folder on a task or a file: JSON on standard output, tables for people on standard error.",
        allow_abbrev=False,
    )
    labelled.add_arguments(parser)
    runtime.add_arguments(parser)
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="of --task; few tasks have a labelled test split: MRPC, STS-B, IMDB (default: %(default)s)",
    )
    add_threshold(parser, "keep a token where its margin exceeds this (default: the model's)")
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
    # Imported here, so that --help answers at once.
    import jax
    import numpy as np
    from flax import nnx

    from transkimmer_jax.data.batches import evaluation_batches
    from transkimmer_jax.evaluation import masked, reports, summary
    from transkimmer_jax.inference.engine import SkimEngine

    loaded = labelled.load(args, args.split)
    model, task = loaded.model, loaded.task
    threshold = loaded.threshold if args.threshold is None else args.threshold
    if args.mode == "compacted":
        engine = SkimEngine(
            model,
            max_length=task.max_length,
            calibration=loaded.calibration,
            batch_size=args.batch_size,
            threshold=threshold,
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
            predictions = masked.predict(step, params, batches, len(split.labels), threshold, f"evaluating {name}")
        if not np.isfinite(predictions.logits).all():
            raise InferenceError(f"{args.model} gives answers that are not finite: its weights cannot be used")
        evaluations[name] = summary.summarize(predictions, split.labels, task, model.arch)
        reported[name] = reports.report(task, predictions.logits, split.labels)
        for answer in reports.answers(task, predictions, split.labels) if args.predictions else ():
            lines.append(json.dumps(({"split": name} if len(loaded.splits) > 1 else {}) | answer) + "\n")
    result = summary.describe(task, evaluations) | {
        "task": task.name, "data": args.data, "model": args.model, "threshold": threshold, "mode": args.mode,
        "device": jax.devices()[0].device_kind, "reports": reported,
    }  # fmt: skip
    if args.predictions:
        files.write_text(args.predictions, "".join(lines))
    if args.json:
        files.write_json(args.json, result)
    # A field a line: a matrix would fill the screen with a number a line.
    print("{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()) + "\n}")
    for name, values in reported.items():
        print(f"{loaded.source if len(reported) == 1 else f'{task.name}, {name} split'}:\n{reports.text(values)}", file=sys.stderr)
