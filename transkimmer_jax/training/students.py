"""A distilled student beside its teacher: agreement, the task's metric on labelled texts, and the three numbers."""

import dataclasses
import itertools
import statistics
from typing import Any

import numpy as np

from transkimmer_jax.config import Config
from transkimmer_jax.data import pipeline, sources
from transkimmer_jax.data.examples import Examples, subsample
from transkimmer_jax.data.files import read_file
from transkimmer_jax.data.tasks import Task, label_metrics
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation import similarity
from transkimmer_jax.evaluation.clock import interleaved, samples
from transkimmer_jax.evaluation.metrics import score_logits
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.training.models import load_task

_SCORE_COLUMN = "score"
_ROUNDS = 5  # of the clock


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measurements of 'teacher' and 'student'.

    milliseconds: median time of a held-out text on the default runtime. metrics: of labelled texts; None without any.
    """

    milliseconds: dict[str, float]
    metrics: dict[str, dict[str, float]] | None


def require_labelled(config: Config, labelled: str | None, label_column: str | None) -> None:
    """Read a file of labelled texts once, before a run that takes hours.

    Raises:
      DataError: the file cannot be read. ConfigError: `labelled` does not suit the teacher's head, or `label_column` comes without it.
    """
    if labelled is None and label_column is not None:
        raise ConfigError(f"--label-column {label_column} needs --labelled")
    if labelled is not None:
        _labelled(load_task(config), labelled, label_column)


def compare(config: Config, model: str, labelled: str | None = None, label_column: str | None = None) -> Comparison:
    """Time the student in the folder `model` and its teacher on the held-out texts, and score both on labelled ones.

    Raises: as `require_labelled`.
    """
    task = load_task(config)
    assert config.distill.teacher is not None
    options: dict[str, Any] = {"max_length": task.max_length, "pairs": task.is_pair}
    engines = {
        "teacher": SkimEngine.from_pretrained(config.distill.teacher, dense=True, pooling=config.model.pooling, **options),
        "student": SkimEngine.from_pretrained(model, **options),
    }
    texts = subsample(sources.load_split(task, task.test_splits["test"], config.data), config.data.eval_examples, sources.EVALUATION_SEED)
    tokens = pipeline.tokenize(texts.behind(task.prompt), engines["student"].tokenizer, task.max_length)
    parts = samples(tokens, max(1, len(tokens) // 2), _ROUNDS)
    rounds = interleaved({name: engine.predict_tokenized for name, engine in engines.items()}, parts)
    milliseconds = {name: 1000 * statistics.median(seconds) / len(parts[0]) for name, seconds in rounds.items()}
    if labelled is None:
        return Comparison(milliseconds, None)
    examples = _labelled(task, labelled, label_column)
    return Comparison(milliseconds, {name: _metrics(task, engine, examples) for name, engine in engines.items()})


def _labelled(task: Task, path: str, label_column: str | None) -> Examples:
    if task.head == "sentence_embedding":
        if len(task.text_columns) != 2:
            raise ConfigError("--labelled of an embedder holds pairs with a score: name their columns by --text-columns A B")
        return read_file(path, task.text_columns, label_column or _SCORE_COLUMN, None)
    if task.head != "sequence_classification":
        raise ConfigError(
            f"--labelled is for classifiers, cross-encoders and embedders, and the teacher is for {task.head.replace('_', ' ')}"
        )
    column = label_column or task.label_column
    return read_file(path, task.text_columns, column, task.label_names, task.multi_label)


def _metrics(task: Task, engine: SkimEngine, examples: Examples) -> dict[str, float]:
    if task.head == "sentence_embedding":
        firsts, seconds = (similarity.embed(engine, column).values for column in (examples.texts, examples.pairs or []))
        return similarity.correlations(firsts, seconds, examples.labels)
    scored = dataclasses.replace(task, metrics=label_metrics(task.label_names, task.multi_label))
    predictions = engine.predict_tokenized(engine.tokenize(_inputs(examples)))
    return score_logits(scored, predictions.logits, np.asarray(examples.labels))


def _inputs(examples: Examples) -> list[Any]:
    return examples.texts if examples.pairs is None else list(zip(examples.texts, examples.pairs, strict=True))


def report(result: dict[str, Any], comparison: Comparison) -> str:
    """A table of teacher and student for a terminal. result: the content of `result.json`."""
    rows = [["", "teacher", "student"]]
    rows += [[f"{name} with the teacher, held-out texts", "", f"{value:.4f}"] for name, value in result["metrics"]["test"].items()]
    if comparison.metrics is not None:
        teacher, student = (comparison.metrics[name] for name in ("teacher", "student"))
        rows += [[f"{name}, labelled texts", f"{teacher[name]:.4f}", f"{student[name]:.4f}"] for name in teacher]
    for point in result.get("curve", []):
        rows.append([f"{result['metric']} at {point['flops_vs_unpadded']:.2f}x fewer FLOPs, held-out texts", "", f"{point['value']:.4f}"])
    costs = result["costs"]["test"]
    slow, fast = (comparison.milliseconds[name] for name in ("teacher", "student"))
    rows += [
        ["tokens kept", "100.0%", f"{costs['kept_tokens']:.1%}"],
        ["fewer FLOPs than padded dense", "", f"{costs['flops_vs_padded']:.2f}x"],
        ["fewer FLOPs than unpadded dense", "", f"{costs['flops_vs_unpadded']:.2f}x"],
        ["milliseconds a text, both unpadded", f"{slow:.2f}", f"{fast:.2f}"],
        ["times as fast", "", f"{slow / fast:.2f}x"],
    ]
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """Rows of a name and values as lines: names to the left, values to the right of their columns."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines = [[row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False))] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
