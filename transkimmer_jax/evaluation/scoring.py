"""Metric, tokens kept and FLOPs of a model on labelled texts."""

import json
import sys
from typing import Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import ConfigError, InferenceError
from transkimmer_jax.evaluation import labelled
from transkimmer_jax.inference.requirements import require_positions, require_skimming


def evaluate(request: labelled.Request, mode: str = "compacted", predictions: str | None = None) -> dict[str, Any]:
    """The scores of the request's model on its texts.

    Args:
      mode: 'compacted' computes kept tokens only, 'masked' computes all of them under a mask, as training does.
      predictions: a file for one line of JSON a text: label, predicted, probabilities, kept.

    Prints reports by class on standard error.
    """
    from transkimmer_jax.checkpoints import config_file
    from transkimmer_jax.checkpoints.locations import resolve

    if request.pooling or config_file.read(resolve(request.model)).architecture.head == "sentence_embedding":
        if mode == "masked" or predictions:
            raise ConfigError(f"{request.model} is an embedder: it is evaluated by cosines alone, without --mode masked and --predictions")
        return _evaluate_embedder(request)
    return _evaluate_labelled(request, mode, predictions)


def _evaluate_embedder(request: labelled.Request) -> dict[str, Any]:
    """By cosines of pairs that people have scored."""
    import jax

    from transkimmer_jax.evaluation import similarity
    from transkimmer_jax.inference.engine import SkimEngine

    task, splits = labelled.load_pairs(request)
    engine = SkimEngine.from_pretrained(
        request.model,
        pooling=request.pooling,
        max_length=request.max_length,
        batch_size=request.batch_size,
        threshold=request.threshold,
        **request.runtime_options,
    )
    require_positions(request.model, engine.arch, request.max_length)
    metrics, costs = {}, []
    for name, split in splits.items():
        texts = dict.fromkeys([*split.texts, *(split.pairs or [])])  # many stand in several pairs
        vectors = similarity.embed(engine, list(texts))
        costs.append(vectors)
        row = {text: number for number, text in enumerate(texts)}
        firsts, seconds = (vectors.values[[row[text] for text in column]] for column in (split.texts, split.pairs or []))
        metrics[name] = similarity.correlations(firsts, seconds, split.labels)
    first = next(iter(metrics.values()))
    return {
        "metric": "spearman", "value": first["spearman"], "metrics": metrics,
        "examples": {name: len(split) for name, split in splits.items()},
        "kept_tokens": costs[0].kept_tokens, "flops_vs_unpadded": costs[0].dense_flops / costs[0].flops,
        "task": task.name, "data": request.data, "model": request.model, "threshold": engine.threshold,
        "device": jax.devices()[0].device_kind,
    }  # fmt: skip


def _evaluate_labelled(request: labelled.Request, mode: str, file: str | None) -> dict[str, Any]:
    """By labels of texts, of words, or answers."""
    import jax
    from flax import nnx

    from transkimmer_jax.data.batches import evaluation_batches
    from transkimmer_jax.data.prepared import warn_of_cut
    from transkimmer_jax.evaluation import masked, reports, summary
    from transkimmer_jax.evaluation.metrics import require_scorer
    from transkimmer_jax.inference.engine import SkimEngine

    if mode == "masked" and (given := [name for name, value in request.runtime_options.items() if value is not None]):
        raise ConfigError(f"--{given[0]} is of compacted computation: leave it out, or --mode masked")
    loaded = labelled.load(request)
    model, task = loaded.model, loaded.task
    require_skimming(request.model, model.arch, threshold=request.threshold)
    require_scorer(task)
    classifies = task.head == "sequence_classification"
    if file and not classifies:
        raise ConfigError(f"--predictions are of classes and values, and {request.model} is for {task.head.replace('_', ' ')}")
    threshold = loaded.threshold if request.threshold is None else request.threshold
    if mode == "compacted":
        engine = SkimEngine(
            model,
            max_length=task.max_length,
            calibration=loaded.calibration,
            batch_size=request.batch_size,
            threshold=request.threshold,
            **request.runtime_options,
        )
    else:
        graph, params = nnx.split(model)
        step = masked.evaluation_step(graph)
    evaluations, reported, lines = {}, {}, []
    for name, split in loaded.splits.items():
        if mode == "compacted":
            predictions = engine.predict_tokenized(split.tokenized, progress=True)
        else:
            lengths = DataConfig().length_buckets
            batches = evaluation_batches(split.tokenized, request.batch_size, lengths, task.max_length, loaded.pad_id)
            predictions = masked.predict(step, params, batches, batches.examples, threshold, f"evaluating {name}")
        if len(predictions.not_finite()):
            raise InferenceError(f"{request.model} gives answers that are not finite: its weights cannot be used")
        evaluations[name] = summary.summarize(predictions, split.labels, task, model.arch)
        if classifies:
            reported[name] = reports.report(task, predictions.logits, split.labels)
        for answer in reports.answers(task, predictions, split.labels) if file else ():
            lines.append(json.dumps(({"split": name} if len(loaded.splits) > 1 else {}) | answer) + "\n")
        if task.head == "token_classification":
            warn_of_cut(split.tokenized, f"texts of the {name}", f"--max-length={task.max_length}")
    if file:
        files.write_text(file, "".join(lines))
    for name, values in reported.items():
        print(f"{loaded.source if len(reported) == 1 else f'{task.name}, {name} split'}:\n{reports.text(values)}", file=sys.stderr)
    return summary.describe(task, evaluations, {name: split.count for name, split in loaded.splits.items()}) | {
        "truncated": {name: int(split.tokenized.truncated.sum()) for name, split in loaded.splits.items()},
        "task": task.name, "data": request.data, "model": request.model, "threshold": threshold, "mode": mode,
        "device": jax.devices()[0].device_kind, "reports": reported,
    }  # fmt: skip
