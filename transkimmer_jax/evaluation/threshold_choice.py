"""The curve of a model over thresholds, and the threshold to take."""

import dataclasses
import json
import logging
import math
import pathlib
from typing import TYPE_CHECKING, Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.evaluation import labelled

if TYPE_CHECKING:
    import numpy as np

    from transkimmer_jax.evaluation.guarantees import Risk
    from transkimmer_jax.evaluation.sweeps import Baseline, Point
    from transkimmer_jax.inference.engine import SkimEngine

logger = logging.getLogger("transkimmer_jax")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to choose of a model's thresholds, and where to write their curve.

    points: of the curve. dense: the model to compare with; None: the same weights with nothing skimmed. budget: largest share of the
    dense model's FLOPs. tolerance: largest loss of the metric. guarantee: the probability with which the tolerance holds. risk: what is
    lost. apply: write the choice into the model folder.
    """

    output: str
    points: int = 16
    dense: str | None = None
    budget: float | None = None
    tolerance: float | None = None
    guarantee: float | None = None
    risk: "Risk | None" = None
    apply: bool = False


def _check(choice: Choice) -> None:
    if choice.guarantee is not None:
        if not choice.tolerance:
            raise ConfigError("--guarantee needs a --tolerance above 0: no sample can show that nothing at all is lost")
    elif choice.risk is not None:
        raise ConfigError("--risk is what --guarantee bounds: give both, or neither")
    if choice.apply and choice.budget is None and choice.tolerance is None:
        raise ConfigError("--apply needs --budget or --tolerance: nothing is picked without")


def choose_threshold(request: labelled.Request, choice: Choice) -> None:
    import jax
    import numpy as np

    from transkimmer_jax.evaluation import summary, sweeps
    from transkimmer_jax.evaluation.metrics import score_logits
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.progress import tqdm

    _check(choice)
    loaded = labelled.load(request)
    model, task = loaded.model, loaded.task
    if task.head != "sequence_classification":
        raise CheckpointError(f"{request.model} is for {task.head.replace('_', ' ')}: sweeps are of classifiers and regressors")
    if model.arch.skim is None:
        raise CheckpointError(f"{request.model} is a dense model: it has no thresholds to sweep")
    if choice.guarantee is not None and task.is_regression:
        raise ConfigError(f"--guarantee counts right and wrong answers, and {task.name} is regression")
    risk: Risk = choice.risk or "accuracy"
    if choice.guarantee is not None and risk == "accuracy" and task.primary_metric != "accuracy":
        raise ConfigError(f"{task.name} is scored by {task.primary_metric}, not by accuracy: give --risk disagreement")
    if choice.tolerance is not None and choice.dense is None and not model.arch.is_whole:
        raise ConfigError(f"--tolerance is a loss against the dense model, of which {request.model} has a part: name it by --dense")
    if choice.guarantee is not None and loaded.chose_the_model:
        logger.warning("%s has chosen this checkpoint: a guarantee needs texts that training has not seen", loaded.source)
    if choice.apply and not pathlib.Path(request.model).is_dir():
        raise ConfigError(f"--apply writes into a model folder, and {request.model} is none")
    split = next(iter(loaded.splits.values()))
    dense_logits = None if choice.dense is None else _dense_logits(request, choice.dense, loaded, split.tokenized)
    engine = SkimEngine(
        model, max_length=task.max_length, calibration=loaded.calibration, batch_size=request.batch_size, **request.runtime_options
    )
    # With a guarantee, a quarter of the texts chooses what is tested on the others.
    order = np.random.default_rng(0).permutation(len(split.labels))
    choosing, testing = np.split(order, [0 if choice.guarantee is None else len(order) // 4])
    if choice.guarantee is not None and not len(choosing):
        raise ConfigError(f"--guarantee needs more than {len(order)} texts")

    def evaluate(rows: np.ndarray, threshold: float) -> summary.SplitEvaluation:
        predictions = engine.predict_tokenized(split.tokenized.take(rows), threshold=threshold)
        return summary.summarize(predictions, split.labels[rows], task, model.arch)

    everything = np.arange(len(order))
    with tqdm(desc=f"sweeping, for {choice.points} points", unit="threshold") as bar:

        def evaluate_and_show(threshold: float) -> summary.SplitEvaluation:
            bar.update()
            return evaluate(everything if choice.guarantee is None else choosing, threshold)

        points = sweeps.sweep(evaluate_and_show, loaded.threshold, choice.points)
    if choice.guarantee is not None:
        thresholds = tqdm([point.threshold for point in points], desc="testing", unit="threshold")
        points = [sweeps.Point(threshold, evaluate(everything, threshold)) for threshold in thresholds]
    if dense_logits is None:
        dense_logits = points[0].evaluation.predictions.logits
    metric = task.primary_metric
    dense, everything_kept = score_logits(task, dense_logits, split.labels)[metric], points[0]
    if choice.dense or model.arch.is_whole:
        baseline = sweeps.Baseline("dense", dense, 1.0)
    else:
        baseline = sweeps.Baseline("unskimmed", dense, everything_kept.evaluation.flops_vs_unpadded)
    result: dict[str, Any] = {
        "task": task.name, "metric": metric, "dense_value": dense, "dense": choice.dense or "the same weights, nothing skimmed",
        "split": next(iter(loaded.splits)), "data": request.data, "examples": len(split.labels), "device": jax.devices()[0].device_kind,
        "points": [point.describe() for point in points],
        "pareto": [point.describe()["threshold"] for point in sweeps.pareto(points, metric)],
    }  # fmt: skip
    # What can be served: infinities keep everything, or nothing.
    finite = [point for point in points if math.isfinite(point.threshold)]
    best = sweeps.best(finite, metric)
    result |= {"everything_kept": everything_kept.describe(), "best": None if best is None else best.describe()}
    if choice.guarantee is not None:
        chosen, result["guarantee"] = _guaranteed(choice, risk, finite, dense_logits, split.labels, choosing, testing, task.multi_label)
    elif choice.tolerance is not None:
        chosen = sweeps.cheapest_above(finite, metric, dense - choice.tolerance)
    elif choice.budget is not None:
        chosen = sweeps.best_within(finite, metric, choice.budget)
    else:
        chosen = None
    result["chosen"] = None if chosen is None else chosen.describe()
    output = pathlib.Path(choice.output)
    files.write_json(output / "sweep.json", result)
    sweeps.write_csv(output / "sweep.csv", points)
    sweeps.plot(output / "sweep.png", points, metric, baseline, chosen, loaded.source)
    print(f"{loaded.source}: {len(split.labels)} texts, {baseline.name} {metric} {baseline.value:.4f}")
    _print_table(points, metric, baseline, chosen)
    can_be_had = _can_be_had(everything_kept, best, metric, baseline)
    print(can_be_had)
    if choice.guarantee is not None and chosen is not None:
        print(_certified(result["guarantee"], chosen))
    if chosen is None and (choice.budget is not None or choice.tolerance is not None):
        raise ConfigError(f"{_unmet(choice, finite)}; {can_be_had}; {output / 'sweep.csv'} has all points")
    if choice.apply and chosen is not None:
        _apply(request.model, engine, chosen)


def _dense_logits(request: labelled.Request, dense: str, loaded: labelled.LabelledModel, tokenized: Any) -> "np.ndarray":
    from transkimmer_jax.inference.engine import SkimEngine

    labelled.require_comparable(dense, request.model)
    options = {"max_length": loaded.task.max_length, "batch_size": request.batch_size, **request.runtime_options}
    engine = SkimEngine.from_pretrained(dense, dense=True, **options)
    return engine.predict_tokenized(tokenized, progress=True).logits


def _guaranteed(
    choice: Choice,
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

    assert choice.tolerance is not None and choice.guarantee is not None
    answers = [decisions(point.evaluation.predictions.logits, multi_label) for point in points]
    losses = [guarantees.losses_of(risk, answer, decisions(dense_logits, multi_label), labels) for answer in answers]
    count, p_values = guarantees.tested(risk, losses, choosing, testing, choice.tolerance, choice.guarantee)
    tested = [
        {"threshold": point.describe()["threshold"], "risk": float(values[testing].mean()), "p_value": p_value}
        for point, values, p_value in zip(points, losses, p_values, strict=False)
    ]
    about = {"confidence": choice.guarantee, "risk": risk, "tolerance": choice.tolerance, "examples": len(testing), "tested": tested}
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


def _unmet(choice: Choice, points: list["Point"]) -> str:
    """What was asked for and cannot be had."""
    if choice.budget is not None:
        least = min((point.evaluation.flops_share for point in points), default=math.nan)
        return f"no threshold spends at most --budget {choice.budget} of the dense model's FLOPs: the least is {least:.3f}"
    if choice.guarantee is not None:
        return f"no threshold is certified to lose at most --tolerance {choice.tolerance} with --guarantee {choice.guarantee}"
    return f"no threshold loses at most --tolerance {choice.tolerance}"


def _apply(model: str, engine: "SkimEngine", chosen: "Point") -> None:
    from transkimmer_jax.checkpoints import config_file, folders
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.onnx import saved

    folder = pathlib.Path(model)
    assert engine.arch.skim is not None
    # Whole, since the original's config.json has no skim section.
    skim = dataclasses.replace(engine.arch.skim, threshold=chosen.threshold)
    config = {**config_file.read(folder).values, "skim": config_file.skim_values(skim)}
    predictions = chosen.evaluation.predictions
    Calibration.of(predictions.lengths, predictions.kept, chosen.threshold).save(folder)
    folders.replace_text(folder / config_file.CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    print(json.dumps({"applied": chosen.threshold, "model": model}))
    if saved.exported(folder):
        logger.warning("%s/%s has graphs with the threshold from before: export them again", model, saved.GRAPH_FOLDER)
