"""What a run reads: its examples, then their tokens, then the batches of its steps and evaluations."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from transkimmer_jax.config import Config, SkimConfig
from transkimmer_jax.data import batches, sources
from transkimmer_jax.data.batches import BatchPlan, EvaluationBatches, TokenizedExamples
from transkimmer_jax.data.examples import Examples, subsample
from transkimmer_jax.data.prepared import Prepared, prepare, warn_of_cut
from transkimmer_jax.data.records import shown
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.errors import ConfigError, DataError, ExampleError

# Texts of the first validation split on which the threshold is fitted.
_THRESHOLD_EXAMPLES = 512
_DIGESTED_AT_ONCE = 1000  # texts, or labels, so that a set of them is not in memory twice


@dataclasses.dataclass(frozen=True)
class RunExamples:
    """The texts of a run. validation, test: by the splits' names in reports."""

    training: Examples
    validation: dict[str, Examples]
    test: dict[str, Examples]

    def digest(self, task: Task) -> str:
        """The SHA-256 of all texts behind the task's prompt and their labels, in their order, and of the labels' names, in hexadecimal."""
        encode = json.JSONEncoder(default=dataclasses.asdict).encode  # `default`: of `Answers`
        total = hashlib.sha256(encode(task.label_names).encode())
        for name, examples in {"training": self.training, **self.validation, **self.test}.items():
            for column in (examples.behind(task.prompt).texts, examples.pairs, examples.labels, examples.labelled):
                values = () if column is None else column
                total.update(encode([name, len(values), column is None]).encode())
                for start in range(0, len(values), _DIGESTED_AT_ONCE):
                    part = values[start : start + _DIGESTED_AT_ONCE]
                    total.update(encode(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        return total.hexdigest()


@dataclasses.dataclass(frozen=True)
class Split:
    """A validation or test split, ready to be evaluated. lengths, first_segments: [N], in the order of the split, see `TokenizedExamples`.
    labels: see `metrics.compute_metrics`."""

    batches: EvaluationBatches
    labels: Any
    lengths: np.ndarray
    first_segments: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """The tokens of a run, and which of them make up which batch.

    plan: of the steps. training_pass: every training text once. validation, test: by the splits' names in reports. threshold_split: the
    texts on which a checkpoint's threshold is fitted.
    """

    training: TokenizedExamples
    plan: BatchPlan
    training_pass: EvaluationBatches
    validation: dict[str, Split]
    test: dict[str, Split]
    threshold_split: Split

    @property
    def served_lengths(self) -> np.ndarray:
        """Tokens of the texts that the budget is of: those of the first validation split, [N]."""
        return next(iter(self.validation.values())).lengths

    def always_kept(self, skim: SkimConfig) -> float:
        """Tokens of one of these texts that are never skimmed, on average."""
        return always_kept(skim, next(iter(self.validation.values())).first_segments)

    def total_steps(self, config: Config) -> int:
        """Optimiser steps of the whole run."""
        return config.train.steps or max(1, round(config.train.epochs * self.plan.steps_per_epoch))


def always_kept(skim: SkimConfig, first_segments: np.ndarray) -> float:
    """Tokens of a text that are never skimmed, on average. first_segments: [N], see `TokenizedExamples`."""
    return 1.0 if skim.always_keep is None else float(first_segments.mean())


def require_shareable(config: Config, placement: Placement) -> None:
    """Raise `ConfigError` where the devices cannot share a batch, or its micro-batches, equally."""
    batch_size, parts = config.data.batch_size, config.optimizer.accumulation
    if batch_size % (placement.device_count * parts):
        raise ConfigError(
            f"data.batch_size={batch_size} cannot be shared by {placement.device_count} devices in "
            f"{parts} micro-batches: make it a multiple of their product"
        )


def load_unlabelled(config: Config, task: Task) -> Examples | None:
    """The texts that the teacher alone labels; None where the config names none. Raises as `load_examples`."""
    path = config.distill.unlabelled_file
    if path is None:
        return None
    if task.head != "sequence_classification" or task.judge == "teacher":
        raise ConfigError(
            f"distill.unlabelled_file adds texts to labelled ones of a classifier or regressor, and data.task={task.name!r} has none:"
            " give all texts by data.text_files, to `transkimmer distil`"
        )
    return sources.read_unlabelled(task, path)


def load_validation(config: Config, task: Task) -> dict[str, Examples]:
    """The texts to choose on, by the splits' names in reports. Raises as `load_examples`."""
    return {
        name: subsample(sources.load_split(task, split, config.data), config.data.eval_examples, sources.EVALUATION_SEED)
        for name, split in task.validation_splits.items()
    }


def held_out(config: Config, task: Task, tokenizer: Any, count: int) -> TokenizedExamples:
    """So many texts at most of the first validation split, to choose a student's shape on. Raises as `load_examples`."""
    split = next(iter(task.validation_splits.values()))
    texts = subsample(sources.load_split(task, split, config.data), count, config.train.seed)
    return prepare(task, texts, tokenizer, config.data.doc_stride).tokens


def load_examples(config: Config, task: Task) -> RunExamples:
    """The texts that a config asks for.

    Those to test on are the user's own: `data.test_file`, or a part of texts without labels. What tasks have of test splits is for
    `evaluate`, after the choices between runs were made.

    Raises:
      ConfigError: texts without labels beside none that have some. DataError: data that cannot be used.
    """
    data, unlabelled = config.data, load_unlabelled(config, task)
    training = subsample(sources.load_split(task, task.train_split, data), data.train_examples, config.train.seed)
    if unlabelled is not None:
        training = sources.with_unlabelled(training, unlabelled)
    validation = load_validation(config, task)
    tests = task.test_splits if data.test_file or task.judge == "teacher" else {}
    test = {name: sources.load_split(task, split, data) for name, split in tests.items()}
    if task.judge == "teacher":
        test = {name: subsample(texts, data.eval_examples, sources.EVALUATION_SEED) for name, texts in test.items()}
    return RunExamples(training, validation, test)


def tokenize(config: Config, task: Task, examples: RunExamples, tokenizer: Any, placement: Placement) -> RunInputs:
    """Tokenise the texts of a run, and plan its batches.

    Raises:
      DataError: fewer texts than a batch has, or a length that holds no text.
    """
    data = config.data
    # Rounded up to what the devices can share; the copies that fill a batch have no weight.
    batch_size = -(-data.eval_batch_size // placement.device_count) * placement.device_count

    def one_pass(tokens: TokenizedExamples) -> EvaluationBatches:
        return batches.evaluation_batches(tokens, batch_size, data.length_buckets, task.max_length, tokenizer.pad_token_id)

    def ready(texts: Examples) -> Prepared:
        try:
            return prepare(task, texts, tokenizer, data.doc_stride)
        except ExampleError as error:  # whose number is of a split, which no file shows
            raise DataError(f"the question {shown(texts.texts[error.number])}: {error.reason}") from error

    def split(texts: Examples, name: str | None = None) -> Split:
        prepared = ready(texts)
        if task.head == "token_classification" and name is not None:  # whose words behind the cut are not scored
            warn_of_cut(prepared.tokens, f"texts of the {name}", f"data.max_length={task.max_length}")
        return Split(one_pass(prepared.tokens), prepared.labels, prepared.tokens.lengths, prepared.tokens.first_segments)

    training = ready(examples.training).tokens
    warn_of_cut(training, "training texts", f"data.max_length={task.max_length}")
    first = next(iter(examples.validation.values()))
    return RunInputs(
        training=training,
        plan=BatchPlan(training.lengths, data.batch_size, data.length_buckets, task.max_length, data.grouping_window, config.train.seed),
        training_pass=one_pass(training),
        validation={name: split(texts, name) for name, texts in examples.validation.items()},
        test={name: split(texts, name) for name, texts in examples.test.items()},
        threshold_split=split(subsample(first, _THRESHOLD_EXAMPLES, sources.EVALUATION_SEED)),
    )
