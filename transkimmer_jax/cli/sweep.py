"""`sweep`: one checkpoint at many thresholds, and the one to take."""

import argparse
import dataclasses
import json
import logging
import math
import pathlib
from typing import TYPE_CHECKING, Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import labelled, runtime
from transkimmer_jax.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import numpy as np

    from transkimmer_jax.evaluation.guarantees import Risk
    from transkimmer_jax.evaluation.sweeps import Baseline, Point
    from transkimmer_jax.inference.engine import SkimEngine

logger = logging.getLogger("transkimmer_jax")

_DESCRIPTION = """
Evaluate a skimming model at thresholds that are spread evenly over the FLOPs they spend, write sweep.json, sweep.csv and sweep.png to
--output, and pick a threshold: the best one within --budget, or the cheapest that loses at most --tolerance against the dense model.

With --guarantee 0.95 the choice is risk-controlled: a part of the texts chooses the candidates, the others test them, and the
probability that the picked threshold's true risk exceeds --tolerance is at most 5 % (Learn then Test). The risk is the loss of
accuracy, or with --risk disagreement the share of texts that are answered differently than by the dense model. Give texts that
training has not seen: those of its validation have chosen the checkpoint.
"""


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "sweep",
        help="metric against FLOPs over thresholds, and the threshold to take",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    labelled.add_arguments(parser)
    runtime.add_arguments(parser)
    parser.add_argument("--output", required=True, help="folder for sweep.json, sweep.csv and sweep.png")
    parser.add_argument("--points", type=int, default=16, help="of the curve; about two evaluations each (default: %(default)s)")
    parser.add_argument("--dense", metavar="DIR", help="dense model to compare with (default: the same weights with nothing skimmed)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--budget", type=float, help="share of the unpadded dense model's FLOPs to spend at most, in (0, 1]")
    choice.add_argument("--tolerance", type=float, help="loss of the metric against dense to accept, e.g. 0.01")
    parser.add_argument("--guarantee", type=float, metavar="CONFIDENCE", help="with --tolerance: hold it with this probability, e.g. 0.95")
    parser.add_argument("--risk", choices=("accuracy", "disagreement"), help="what --guarantee bounds (default: accuracy)")
    parser.add_argument("--apply", action="store_true", help="write the picked threshold, and a calibration for it, into the model folder")
    parser.set_defaults(command=_sweep)


def _check(args: argparse.Namespace) -> None:
    if args.points < 3:
        raise ConfigError(f"--points must be at least 3, not {args.points}")
    if args.budget is not None and not 0 < args.budget <= 1:
        raise ConfigError(f"--budget is a share in (0, 1], not {args.budget}")
    if args.tolerance is not None and not 0 <= args.tolerance < 1:
        raise ConfigError(f"--tolerance is a loss in [0, 1), not {args.tolerance}")
    if args.guarantee is not None:
        if not 0 < args.guarantee < 1:
            raise ConfigError(f"--guarantee is a probability between 0 and 1, not {args.guarantee}")
        if not args.tolerance:
            raise ConfigError("--guarantee needs a --tolerance above 0: no sample can show that nothing at all is lost")
    elif args.risk is not None:
        raise ConfigError("--risk is what --guarantee bounds: give both, or neither")
    if args.apply and args.budget is None and args.tolerance is None:
        raise ConfigError("--apply needs --budget or --tolerance: nothing is picked without")


def _sweep(args: argparse.Namespace) -> None:
    import jax
    import numpy as np

    from transkimmer_jax.evaluation import summary, sweeps
    from transkimmer_jax.evaluation.metrics import score_logits
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.progress import tqdm

    _check(args)
    loaded = labelled.load(args)
    model, task = loaded.model, loaded.task
    if task.head != "sequence_classification":
        raise CheckpointError(f"{args.model} is for {task.head.replace('_', ' ')}: sweeps are of classifiers and regressors")
    if model.arch.skim is None:
        raise CheckpointError(f"{args.model} is a dense model: it has no thresholds to sweep")
    if args.guarantee is not None and task.is_regression:
        raise ConfigError(f"--guarantee counts right and wrong answers, and {task.name} is regression")
    risk: Risk = args.risk or "accuracy"
    if args.guarantee is not None and risk == "accuracy" and task.primary_metric != "accuracy":
        raise ConfigError(f"{task.name} is scored by {task.primary_metric}, not by accuracy: give --risk disagreement")
    if args.tolerance is not None and args.dense is None and not model.arch.is_whole:
        raise ConfigError(f"--tolerance is a loss against the dense model, of which {args.model} has a part: name it by --dense")
    if args.guarantee is not None and loaded.chose_the_model:
        logger.warning("%s has chosen this checkpoint: a guarantee needs texts that training has not seen", loaded.source)
    if args.apply and not pathlib.Path(args.model).is_dir():
        raise ConfigError(f"--apply writes into a model folder, and {args.model} is none")
    split = next(iter(loaded.splits.values()))
    dense_logits = None if args.dense is None else _dense_logits(args, loaded, split.tokenized)
    engine = SkimEngine(
        model, max_length=task.max_length, calibration=loaded.calibration, batch_size=args.batch_size, **runtime.options(args)
    )
    # With a guarantee, a quarter of the texts chooses what is tested on the others.
    order = np.random.default_rng(0).permutation(len(split.labels))
    choosing, testing = np.split(order, [0 if args.guarantee is None else len(order) // 4])
    if args.guarantee is not None and not len(choosing):
        raise ConfigError(f"--guarantee needs more than {len(order)} texts")

    def evaluate(rows: np.ndarray, threshold: float) -> summary.SplitEvaluation:
        predictions = engine.predict_tokenized(split.tokenized.take(rows), threshold=threshold)
        return summary.summarize(predictions, split.labels[rows], task, model.arch)

    everything = np.arange(len(order))
    with tqdm(desc=f"sweeping, for {args.points} points", unit="threshold") as bar:

        def evaluate_and_show(threshold: float) -> summary.SplitEvaluation:
            bar.update()
            return evaluate(everything if args.guarantee is None else choosing, threshold)

        points = sweeps.sweep(evaluate_and_show, loaded.threshold, args.points)
    if args.guarantee is not None:
        thresholds = tqdm([point.threshold for point in points], desc="testing", unit="threshold")
        points = [sweeps.Point(threshold, evaluate(everything, threshold)) for threshold in thresholds]
    if dense_logits is None:
        dense_logits = points[0].evaluation.predictions.logits
    metric = task.primary_metric
    dense, everything_kept = score_logits(task, dense_logits, split.labels)[metric], points[0]
    if args.dense or model.arch.is_whole:
        baseline = sweeps.Baseline("dense", dense, 1.0)
    else:
        baseline = sweeps.Baseline("unskimmed", dense, everything_kept.evaluation.flops_vs_unpadded)
    result: dict[str, Any] = {
        "task": task.name, "metric": metric, "dense_value": dense, "dense": args.dense or "the same weights, nothing skimmed",
        "split": next(iter(loaded.splits)), "data": args.data, "examples": len(split.labels), "device": jax.devices()[0].device_kind,
        "points": [point.describe() for point in points],
        "pareto": [point.describe()["threshold"] for point in sweeps.pareto(points, metric)],
    }  # fmt: skip
    # What can be served: infinities keep everything, or nothing.
    finite = [point for point in points if math.isfinite(point.threshold)]
    best = sweeps.best(finite, metric)
    result |= {"everything_kept": everything_kept.describe(), "best": None if best is None else best.describe()}
    if args.guarantee is not None:
        chosen, result["guarantee"] = _guaranteed(args, risk, finite, dense_logits, split.labels, choosing, testing, task.multi_label)
    elif args.tolerance is not None:
        chosen = sweeps.cheapest_above(finite, metric, dense - args.tolerance)
    elif args.budget is not None:
        chosen = sweeps.best_within(finite, metric, args.budget)
    else:
        chosen = None
    result["chosen"] = None if chosen is None else chosen.describe()
    output = pathlib.Path(args.output)
    files.write_json(output / "sweep.json", result)
    sweeps.write_csv(output / "sweep.csv", points)
    sweeps.plot(output / "sweep.png", points, metric, baseline, chosen, loaded.source)
    print(f"{loaded.source}: {len(split.labels)} texts, {baseline.name} {metric} {baseline.value:.4f}")
    _print_table(points, metric, baseline, chosen)
    can_be_had = _can_be_had(everything_kept, best, metric, baseline)
    print(can_be_had)
    if args.guarantee is not None and chosen is not None:
        print(_certified(result["guarantee"], chosen))
    if chosen is None and (args.budget is not None or args.tolerance is not None):
        raise ConfigError(f"{_unmet(args, finite)}; {can_be_had}; {output / 'sweep.csv'} has all points")
    if args.apply and chosen is not None:
        _apply(args, engine, chosen)


def _dense_logits(args: argparse.Namespace, loaded: labelled.LabelledModel, tokenized: Any) -> "np.ndarray":
    from transkimmer_jax.inference.engine import SkimEngine

    labelled.require_comparable(args.dense, args.model)
    options = {"max_length": loaded.task.max_length, "batch_size": args.batch_size, **runtime.options(args)}
    engine = SkimEngine.from_pretrained(args.dense, dense=True, **options)
    return engine.predict_tokenized(tokenized, progress=True).logits


def _guaranteed(
    args: argparse.Namespace,
    risk: "Risk",
    points: list["Point"],
    dense_logits: "np.ndarray",
    labels: "np.ndarray",
    choosing: "np.ndarray",
    testing: "np.ndarray",
    multi_label: bool,
) -> tuple["Point | None", dict[str, Any]]:
    """The last certified point, and what was tested: the texts at `choosing` say which points are worth a test on those at `testing`."""
    from transkimmer_jax.evaluation import guarantees
    from transkimmer_jax.inference.predictions import decisions

    answers = [decisions(point.evaluation.predictions.logits, multi_label) for point in points]
    losses = [guarantees.losses_of(risk, answer, decisions(dense_logits, multi_label), labels) for answer in answers]
    count, p_values = guarantees.tested(risk, losses, choosing, testing, args.tolerance, args.guarantee)
    tested = [
        {"threshold": point.describe()["threshold"], "risk": float(values[testing].mean()), "p_value": p_value}
        for point, values, p_value in zip(points, losses, p_values, strict=False)
    ]
    about = {"confidence": args.guarantee, "risk": risk, "tolerance": args.tolerance, "examples": len(testing), "tested": tested}
    return (points[count - 1] if count else None), about


def _certified(guarantee: dict[str, Any], chosen: "Point") -> str:
    """What the tests have shown of the chosen point."""
    what = {"accuracy": "accuracy lost", "disagreement": "other answers than the dense model's"}[guarantee["risk"]]
    seen = next(entry["risk"] for entry in guarantee["tested"] if entry["threshold"] == chosen.threshold)
    return (
        f"certified at {guarantee['confidence']:.0%}: at most {guarantee['tolerance']:.4g} {what}"
        f" ({seen:.4f} in {guarantee['examples']} texts)"
    )


def _print_table(points: list["Point"], metric: str, baseline: "Baseline", chosen: "Point | None") -> None:
    against = f"against {baseline.name}"
    width = len(against)
    print(f"{'threshold':>10} {metric:>10} {against:>{width}} {'FLOPs vs unpadded':>18} {'tokens kept':>12}")
    for point in points:
        evaluation, value = point.evaluation, point.value(metric)
        mark = "  <- chosen" if point is chosen else ""
        print(
            f"{point.threshold:10.4g} {value:10.4f} {value - baseline.value:+{width}.4f} {evaluation.flops_vs_unpadded:17.2f}x"
            f" {evaluation.kept_tokens:12.1%}{mark}"
        )


def _can_be_had(everything_kept: "Point", best: "Point | None", metric: str, baseline: "Baseline") -> str:
    """The best that a threshold gives, and what the model gives that skims nothing."""
    parts = [] if best is None else [f"the best is {_described(best, metric, baseline)} at threshold {best.threshold:.4g}"]
    return ", ".join([*parts, f"keeping everything gives {_described(everything_kept, metric, baseline)}"])


def _described(point: "Point", metric: str, baseline: "Baseline") -> str:
    value, times = point.value(metric), point.evaluation.flops_vs_unpadded
    return f"{metric} {value:.4f} ({value - baseline.value:+.4f} against {baseline.name}, {times:.2f}x fewer FLOPs)"


def _unmet(args: argparse.Namespace, points: list["Point"]) -> str:
    """What was asked for and cannot be had."""
    if args.budget is not None:
        least = min((point.evaluation.flops_share for point in points), default=math.nan)
        return f"no threshold spends at most --budget {args.budget} of the dense model's FLOPs: the least is {least:.3f}"
    if args.guarantee is not None:
        return f"no threshold is certified to lose at most --tolerance {args.tolerance} with --guarantee {args.guarantee}"
    return f"no threshold loses at most --tolerance {args.tolerance}"


def _apply(args: argparse.Namespace, engine: "SkimEngine", chosen: "Point") -> None:
    from transkimmer_jax.checkpoints import config_file, folders
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.onnx import saved

    folder = pathlib.Path(args.model)
    assert engine.arch.skim is not None
    # Whole, since the original's config.json has no skim section.
    skim = dataclasses.replace(engine.arch.skim, threshold=chosen.threshold)
    config = {**config_file.read(folder).values, "skim": config_file.skim_values(skim)}
    predictions = chosen.evaluation.predictions
    Calibration.of(predictions.lengths, predictions.kept, chosen.threshold).save(folder)
    folders.replace_text(folder / config_file.CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    print(json.dumps({"applied": chosen.threshold, "model": args.model}))
    if saved.exported(folder):
        logger.warning("%s/%s has graphs with the threshold from before: export them again", args.model, saved.GRAPH_FOLDER)
