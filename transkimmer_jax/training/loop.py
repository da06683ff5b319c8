"""The training loop: `train_and_evaluate(config, workdir)`.

The order of a (re)start: the workdir's config is compared, the data is planned from the seed, the model is built and placed on the
mesh, and the newest checkpoint, where there is one, replaces the fresh state and moves the data iterator. From there on a resumed
run and an uninterrupted one do the same arithmetic.

Every process of a run does all of this. They differ in which rows of a batch they feed, and the first alone writes records and
results.
"""

import contextlib
import dataclasses
import json
import logging
import os
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from transkimmer_jax import config as configs
from transkimmer_jax import files
from transkimmer_jax.config import Config
from transkimmer_jax.data import batches, pipeline, sources
from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.data.examples import Examples, subsample
from transkimmer_jax.data.tasks import Task, get_task
from transkimmer_jax.errors import CheckpointError, ConfigError, Preempted, TrainingError
from transkimmer_jax.evaluation import masked, summary
from transkimmer_jax.evaluation.summary import SplitEvaluation
from transkimmer_jax.evaluation.thresholds import find_threshold
from transkimmer_jax.inference.schedule import Calibration
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.parallel import processes
from transkimmer_jax.parallel.placement import Placement, bytes_per_device
from transkimmer_jax.parallel.processes import Preemption
from transkimmer_jax.progress import tqdm
from transkimmer_jax.training.budget import ServedLengths
from transkimmer_jax.training.checkpoints import Checkpoints
from transkimmer_jax.training.records import NoRecords, Records
from transkimmer_jax.training.step import Trainer
from transkimmer_jax.weights import huggingface
from transkimmer_jax.weights.files import resolve

logger = logging.getLogger("transkimmer_jax")

# A checkpoint counts as within the budget up to this much above it, relative: the resolution of a validation set.
_BUDGET_TOLERANCE = 1.05
_FITTED_EXAMPLES = 512


def train_and_evaluate(config: Config, workdir: str | os.PathLike, command: str | None = None) -> dict[str, Any]:
    """Train as `config` says, keep everything below `workdir`, and return the content of `result.json`.

    command: what was typed, for the result. The same workdir resumes where its newest checkpoint left off; a finished one returns
    its result.

    Raises:
      TranskimmerError: a config, checkpoint, data set or workdir that cannot be used; a workdir that another run is writing to;
        gradients that are not finite; a full disk; another process that is gone. The message is one line. `Preempted`: a SIGTERM
        came, and the run was saved.
    """
    folder = epath.Path(workdir)
    with files.explained(folder), processes.explained():
        _check_owner(config, folder)
        finished = folder / "result.json"
        if finished.exists():
            logger.info("%s holds a finished run", folder)
            return json.loads(finished.read_text())
        run = _Run(config, folder)
        # Only now: a config that turns out to be unusable must not keep the corrected one out of the workdir.
        with files.sole_writer(folder) if processes.is_first() else contextlib.nullcontext():
            if processes.is_first():
                files.write_json(folder / "config.json", configs.to_dict(config))
            processes.wait_for_all("config written")
            with jax.set_mesh(run.placement.mesh):
                return run.train(command)


def _check_owner(config: Config, workdir: epath.Path) -> None:
    """Refuse a workdir that another config has written; on which devices it was is not asked."""
    path = workdir / "config.json"
    values = configs.to_dict(config)
    if not path.exists():
        return
    try:
        written = json.loads(path.read_text())
    except ValueError as error:
        raise TrainingError(f"{path} is not valid JSON: {error}") from error
    # A field that is newer than the run is what it is by default, as it was when there was none.
    complete = {name: section | written.get(name, {}) for name, section in configs.to_dict(Config()).items()}
    changed = configs.difference(written | complete | {"mesh": {}}, values | {"mesh": {}})
    if changed:
        raise TrainingError(f"{workdir} belongs to a run with another config: {', '.join(changed)}; choose another --workdir")


@dataclasses.dataclass(frozen=True)
class _Split:
    """A validation split, ready to be evaluated."""

    batches: EvaluationBatches
    labels: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Evaluated:
    """A checkpoint on every validation split, at one threshold."""

    threshold: float
    splits: dict[str, SplitEvaluation]

    @property
    def first(self) -> SplitEvaluation:
        return next(iter(self.splits.values()))


class _Run:
    """What one run holds while it trains."""

    def __init__(self, config: Config, workdir: epath.Path):
        self.config, self.workdir = config, workdir
        data, train = config.data, config.train
        self.task = get_task(data)
        self.placement = Placement.create(config.mesh)
        self.rows = self.placement.rows(data.batch_size)
        if data.batch_size % (self.placement.device_count * config.optimizer.accumulation):
            raise ConfigError(
                f"data.batch_size={data.batch_size} cannot be shared by {self.placement.device_count} devices in "
                f"{config.optimizer.accumulation} micro-batches: make it a multiple of their product"
            )
        # Data first: what is wrong with the user's files shows before anything slow.
        training = subsample(sources.load_split(self.task, self.task.train_split, data), data.train_examples, train.seed)
        if config.distill.unlabelled_file is not None:
            training = sources.with_unlabelled(training, self.task, config.distill.unlabelled_file)
        held_out = {
            name: subsample(sources.load_split(self.task, split, data), data.eval_examples, train.seed)
            for name, split in self.task.validation_splits.items()
        }
        if not held_out:
            raise TrainingError("nothing to evaluate on: give data.validation_file")
        folder = resolve(config.model.pretrained)
        self.model = load_model(config, self.task)
        limit = self.model.arch.max_position_embeddings
        if self.task.max_length > limit:
            raise CheckpointError(f"data.max_length={self.task.max_length} is more than the {limit} positions of {config.model.pretrained}")
        self.tokenizer = pipeline.load_tokenizer(folder, self.model.arch.vocab_size)
        pad_id = self.tokenizer.pad_token_id
        tokenized = pipeline.tokenize(training, self.tokenizer, self.task.max_length)
        self.splits = {name: self._split(examples) for name, examples in held_out.items()}
        # What the threshold is fitted on.
        self.fitted_on = self._split(subsample(next(iter(held_out.values())), _FITTED_EXAMPLES, train.seed))
        plan = batches.BatchPlan(
            tokenized.lengths, data.batch_size, data.length_buckets, self.task.max_length, data.grouping_window, train.seed
        )
        self.total_steps = train.steps or max(1, round(train.epochs * plan.steps_per_epoch))
        self.eval_every = train.eval_every or plan.steps_per_epoch
        self.data = pipeline.training_iterator(tokenized, plan, self.total_steps, pad_id, self.rows)
        teacher = None
        if config.distill.teacher is not None:
            teacher = TranskimmerForSequenceClassification.from_pretrained(
                config.distill.teacher, dense=True, num_labels=self.task.num_labels, compute_dtype=config.model.compute_dtype
            )
            if teacher.arch.vocab_size != self.model.arch.vocab_size:
                raise CheckpointError(f"distill.teacher={config.distill.teacher} has another vocabulary than {config.model.pretrained}")
            sizes = [arch.hidden_size for arch in (teacher.arch, self.model.arch)]
            if config.distill.state_weight > 0 and sizes[0] != sizes[1]:
                raise CheckpointError(
                    f"distill.teacher={config.distill.teacher} has states of size {sizes[0]}, {config.model.pretrained} of {sizes[1]}: "
                    "they cannot be compared; set distill.state_weight=0"
                )
        # As long as the texts of the first validation split, on which the budget is met.
        served = ServedLengths.of(next(iter(self.splits.values())).lengths, tokenized.lengths)
        special_ids = tuple(self.tokenizer.all_special_ids)
        self.trainer = Trainer.create(config, self.model, self.total_steps, teacher, served, special_ids)
        self.initial_state = self.trainer.place(nnx.split(self.model)[1], self.placement)
        self.teacher_params = None if teacher is None else self.placement.put(nnx.split(teacher)[1])
        self.train_step = self.trainer.jitted(self.initial_state, self.placement)
        self.evaluation_step = masked.evaluation_step(self.trainer.graph, self.placement)
        more = "" if tokenized.labelled is None else f", {np.sum(~tokenized.labelled)} of them without labels"
        logger.info("%s: %d training examples%s, %d steps of %d", self.task.name, len(tokenized), more, self.total_steps, data.batch_size)
        logger.info(
            "%s; mesh data %d x fsdp %d, %d examples a device and step, %.0f MB of parameters and optimiser state on each",
            processes.describe(), self.placement.mesh.shape["data"], self.placement.mesh.shape["fsdp"],
            data.batch_size // self.placement.device_count, bytes_per_device(self.initial_state) / 2**20,
        )  # fmt: skip

    def _split(self, examples: Examples) -> _Split:
        data, length = self.config.data, self.task.max_length
        tokenized = pipeline.tokenize(examples, self.tokenizer, length)
        # Rounded up to what the devices can share; the copies that fill a batch have no weight.
        size = -(-data.eval_batch_size // self.placement.device_count) * self.placement.device_count
        pad_id = self.tokenizer.pad_token_id
        return _Split(batches.evaluation_batches(tokenized, size, data.length_buckets, length, pad_id), examples.labels, tokenized.lengths)

    def train(self, command: str | None) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint where there is one, and write `model/` and `result.json`."""
        config, state = self.config, self.initial_state
        evaluated: _Evaluated | None = None
        with Checkpoints(self.workdir, config.train.keep_latest, config.train.save_timeout) as checkpoints, Preemption() as preemption:
            step, seconds_before = 0, 0.0
            if checkpoints.latest_step is not None:
                state, seconds_before = checkpoints.restore(state, self.data)
                step = int(state.step)
                logger.info("resuming at step %d of %d", step, self.total_steps)
            started = time.monotonic()
            bar = tqdm(total=self.total_steps, initial=step, desc="training", unit="step", disable=not processes.is_first())
            with Records(self.workdir, step) if processes.is_first() else NoRecords() as records, bar:
                window: list[dict[str, jax.Array]] = []
                due: tuple[int, list[dict[str, jax.Array]]] | None = None
                shown: dict[str, str] = {}
                while step < self.total_steps:
                    batch = self.placement.global_batch(next(self.data), self.rows, config.data.batch_size)
                    state, metrics = self.train_step(state, batch, self.teacher_params)
                    step += 1
                    preempted = preemption.reached(step)
                    window.append(metrics)
                    # A window is read one step after its last, when the next step is under way already.
                    if due is not None:
                        shown |= self._log(records, *due)
                        due = None
                    evaluates = step % self.eval_every == 0 or step == self.total_steps
                    saves = evaluates or preempted or (config.train.save_every is not None and step % config.train.save_every == 0)
                    if step % config.train.log_every == 0 or saves:
                        due, window = (step, window), []
                    if saves:
                        # What is saved has been seen to be finite, and a resumed run's windows start where this one's do.
                        assert due is not None
                        shown |= self._log(records, *due)
                        due = None
                        rank = None
                        if evaluates:
                            evaluated = self._evaluate(state.params, step)
                            records.write(step, _scalars(evaluated))
                            rank = self._rank(evaluated)
                            shown[self.task.primary_metric] = f"{evaluated.first.metrics[self.task.primary_metric]:.4f}"
                        checkpoints.save(step, state, self.data, seconds_before + time.monotonic() - started, rank)
                        records.publish()
                    if preempted and step < self.total_steps:
                        checkpoints.wait()
                        raise Preempted(f"stopped by SIGTERM and saved at step {step} of {self.total_steps}; the same command resumes")
                    bar.set_postfix(shown, refresh=False)
                    bar.update()
            seconds = seconds_before + time.monotonic() - started
            best, best_step = checkpoints.restore_best(state)
        if best_step != step or evaluated is None:
            evaluated = self._evaluate(best.params, best_step)
        return self._finish(best.params, best_step, evaluated, seconds, command)

    def _log(self, records: Records | NoRecords, step: int, window: list[dict[str, jax.Array]]) -> dict[str, str]:
        """Write a window's means; what the progress bar shows of them. Raises `TrainingError` where they are not finite."""
        values = jax.device_get(window)
        means = {name: float(np.mean([metrics[name] for metrics in values])) for name in values[0]}
        if not (np.isfinite(means["loss"]) and np.isfinite(means["grad_norm"])):
            raise TrainingError(
                f"the loss or its gradient is not finite at or before step {step} (loss {means['loss']}, gradient norm "
                f"{means['grad_norm']}): lower optimizer.learning_rate or optimizer.predictor_learning_rate"
            )
        records.write(step, means)
        return {"loss": f"{means['task_loss']:.3f}", "kept": f"{means['kept_tokens']:.0%}"}

    def _evaluate(self, params: nnx.State, step: int) -> "_Evaluated":
        threshold = self._threshold(params, step)
        return _Evaluated(
            threshold,
            {
                name: masked.evaluate(
                    self.evaluation_step,
                    params,
                    split.batches,
                    split.labels,
                    self.task,
                    self.model.arch,
                    threshold,
                    f"evaluating {name}" if processes.is_first() else None,
                )
                for name, split in self.splits.items()
            },
        )

    def _threshold(self, params: nnx.State, step: int) -> float:
        """Where evaluation decides: once the target is reached, where it is met exactly, so that checkpoints are compared at one price."""
        skim = self.config.skim
        fits = skim.enabled and skim.objective == "budget" and skim.fit_threshold
        if not fits or step < (skim.warmup + skim.anneal) * self.total_steps:
            return skim.threshold

        def share_at(threshold: float) -> float:
            split = self.fitted_on
            return self._share(
                masked.evaluate(self.evaluation_step, params, split.batches, split.labels, self.task, self.model.arch, threshold)
            )

        return find_threshold(share_at, skim.target)

    def _share(self, split: SplitEvaluation) -> float:
        """What the budget is of."""
        return split.flops_share if self.config.skim.target_kind == "flops" else split.kept_tokens

    def _rank(self, evaluated: "_Evaluated") -> float:
        """The primary metric; below every metric, and the lower the costlier, for a checkpoint over its budget."""
        skim = self.config.skim
        if skim.enabled and skim.objective == "budget":
            share = self._share(evaluated.first)
            if share > skim.target * _BUDGET_TOLERANCE:
                return -1000.0 * share
        return evaluated.first.metrics[self.task.primary_metric]

    def _finish(self, params: nnx.State, best_step: int, evaluated: "_Evaluated", seconds: float, command: str | None) -> dict[str, Any]:
        """Write the model folder and the result of the best checkpoint."""
        whole = jax.device_get(jax.jit(lambda tree: tree, out_shardings=self.placement.replicated)(params))
        model = nnx.merge(self.trainer.graph, whole)
        if model.arch.skim is not None:
            model.arch = dataclasses.replace(model.arch, skim=dataclasses.replace(model.arch.skim, threshold=evaluated.threshold))
        data = self.config.data
        result = {
            **summary.describe(self.task, evaluated.splits),
            "threshold": evaluated.threshold,
            "task": self.task.name,
            "steps": self.total_steps,
            "best_step": best_step,
            "seconds": round(seconds, 1),
            "seed": self.config.train.seed,
            "device": jax.devices()[0].device_kind,
            "devices": self.placement.device_count,
            "train_examples": data.train_examples,
            "pretrained": self.config.model.pretrained,
            "command": command,
        }
        if processes.is_first():
            self._write(model, evaluated, result)
        processes.wait_for_all("result written")
        return result

    def _write(self, model: TranskimmerForSequenceClassification, evaluated: _Evaluated, result: dict[str, Any]) -> None:
        """`model/`, with the texts' kept tokens beside it, and `result.json`."""
        huggingface.save(
            model,
            self.workdir / "model",
            tokenizer=self.tokenizer,
            label_names=self.task.label_names,
            extra_config={
                "task": {
                    "name": self.task.name, "max_length": self.task.max_length,
                    "text_columns": list(self.task.text_columns), "label_column": self.task.label_column,
                }
            },
        )  # fmt: skip
        first = evaluated.first
        if model.arch.skim is not None:
            # So that an engine starts with ladders that fit (DESIGN section 4).
            seen = first.predictions
            Calibration.of(seen.lengths, seen.kept, evaluated.threshold).save(self.workdir / "model")
        files.write_json(self.workdir / "result.json", result)
        logger.info("%s %.4f, %.1f %% of the tokens kept", self.task.primary_metric, result["value"], 100 * first.kept_tokens)


def load_model(config: Config, task: Task) -> TranskimmerForSequenceClassification:
    """The model that a config starts from. Raises `CheckpointError`."""
    return TranskimmerForSequenceClassification.from_pretrained(
        config.model.pretrained, seed=config.train.seed, **model_options(config, task)
    )


def model_options(config: Config, task: Task) -> dict[str, Any]:
    """What a config sets of the model that it starts from: options of `from_pretrained` and `huggingface.shapes`."""
    model, skim = config.model, config.skim
    return {
        "dense": not skim.enabled,
        "skim_overrides": {
            **({} if skim.predictor_size is None else {"predictor_size": skim.predictor_size}),
            "initial_bias": skim.initial_bias,
            "temperature": skim.temperature,
            "threshold": skim.threshold,
            "attention_masking": model.attention_masking,
        },
        "num_labels": task.num_labels,
        "num_hidden_layers": model.num_hidden_layers,
        "compute_dtype": model.compute_dtype,
        "remat": model.remat,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
    }


def _scalars(evaluated: _Evaluated) -> dict[str, float]:
    """Evaluations as flat names for the records."""
    scalars = {"threshold": evaluated.threshold}
    for name, split in evaluated.splits.items():
        scalars |= {f"{name}/{metric}": value for metric, value in split.metrics.items()}
        scalars |= {f"{name}/kept_tokens": split.kept_tokens, f"{name}/flops_vs_unpadded": split.flops_vs_unpadded}
        scalars |= {f"{name}/kept_layer_{layer}": share for layer, share in enumerate(split.kept_per_layer)}
    return scalars
