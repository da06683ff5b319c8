"""`evaluate`: metric, tokens kept and FLOPs of a model on a task or a file."""

import argparse
import json

from transkimmer_jax import files
from transkimmer_jax.cli import labelled
from transkimmer_jax.cli.threshold import add_threshold
from transkimmer_jax.config import DataConfig


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="metric, tokens kept and FLOPs of a model folder",
        description="Evaluate a model folder on a task or a file.",
        allow_abbrev=False,
    )
    labelled.add_arguments(parser)
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
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.set_defaults(command=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    import jax
    from flax import nnx

    from transkimmer_jax.data.batches import evaluation_batches
    from transkimmer_jax.evaluation import masked, summary
    from transkimmer_jax.inference.engine import SkimEngine

    found = labelled.load(args, args.split)
    model, task = found.model, found.task
    threshold = found.threshold if args.threshold is None else args.threshold
    if args.mode == "compacted":
        engine = SkimEngine(
            model, max_length=task.max_length, calibration=found.calibration, batch_size=args.batch_size, threshold=threshold
        )
    else:
        graph, params = nnx.split(model)
        step = masked.evaluation_step(graph)
    evaluations = {}
    for name, split in found.splits.items():
        if args.mode == "compacted":
            predictions = engine.predict_tokenized(split.tokenized, progress=True)
        else:
            lengths = DataConfig().length_buckets
            batches = evaluation_batches(split.tokenized, args.batch_size, lengths, task.max_length, found.pad_id)
            predictions = masked.predict(step, params, batches, len(split.labels), threshold, f"evaluating {name}")
        evaluations[name] = summary.summarize(predictions, split.labels, task, model.arch)
    result = summary.describe(task, evaluations) | {
        "task": task.name, "model": args.model, "threshold": threshold, "mode": args.mode, "device": jax.devices()[0].device_kind,
    }  # fmt: skip
    if args.json:
        files.write_json(args.json, result)
    print(json.dumps(result, indent=2))
