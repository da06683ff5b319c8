"""The training loop: `train_and_evaluate(config, workdir)`.

The order of a (re)start: the workdir's config, data and models are compared, the data is planned from the seed, the model is built and
placed on the mesh, and the newest checkpoint, where there is one, replaces the fresh state and moves the data iterator. From there on a
resumed run and an uninterrupted one do the same arithmetic.

Every process of a run does all of this. They differ in which rows of a batch they feed, and the first alone writes records and
results.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from transkimmer_jax import termination
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import Config
from transkimmer_jax.data import pipeline
from transkimmer_jax.distributed import processes
from transkimmer_jax.distributed.placement import Placement, bytes_per_device
from transkimmer_jax.distributed.processes import Preemption
from transkimmer_jax.errors import Preempted
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.metrics import require_scorer
from transkimmer_jax.progress import tqdm
from transkimmer_jax.training import budget, forwarding, inputs, models, narrowing, results, teaching, validation
from transkimmer_jax.training.checkpoints import Checkpoints, Progress
from transkimmer_jax.training.records import Records, Scalars, fetch, means
from transkimmer_jax.training.step import TrainStep
from transkimmer_jax.training.validation import CheckpointEvaluation, Validation
from transkimmer_jax.training.workdir import claimed, finished_result, require_unchanged, what_is_saved

logger = logging.getLogger("transkimmer_jax")


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
    stopped = termination.explained(lambda: what_is_saved(folder))
    with files.explained(folder), processes.explained(), stopped:
        result = finished_result(folder, config)
        return _train(config, folder, command) if result is None else result


def _train(config: Config, workdir: epath.Path, command: str | None) -> dict[str, Any]:
    train, batch_size = config.train, config.data.batch_size

    # ---------------------------------------------------------------------------------------------------------------- devices and data
    task = models.load_task(config)
    require_scorer(task)
    placement = Placement.create(config.mesh)
    rows = placement.rows(batch_size)
    inputs.require_shareable(config, placement)
    # Before the models: what is wrong with the user's files shows before anything slow.
    examples = inputs.load_examples(config, task)
    examples_digest = examples.digest(task)
    require_unchanged(workdir, config, examples_digest)

    # ------------------------------------------------------------------------------------------------------------------------- models
    student = models.load_student(config, task)
    teacher = models.load_teacher(config, task, student.arch)
    tokenizer = models.load_tokenizer(config, task, student.arch)
    results.require_savable(workdir, config, task, student.arch, tokenizer)

    # ------------------------------------------------------------------------------------------------------------------------ batches
    tokens = inputs.tokenize(config, task, examples, tokenizer, placement)
    counts = {name: len(texts) for name, texts in {**examples.validation, **examples.test}.items()}
    del examples  # the texts of a large run are gigabytes, and its steps read tokens alone
    total_steps = tokens.total_steps(config)
    evaluate_every = train.eval_every or tokens.plan.steps_per_epoch

    def evaluates_at(step: int) -> bool:
        return step % evaluate_every == 0 or step == total_steps

    def first_batches() -> Iterator[dict[str, jax.Array]]:
        """Those of the first steps, read apart from the steps."""
        texts = pipeline.training_iterator(tokens.training, tokens.plan, total_steps, tokenizer.pad_token_id, rows)
        return (placement.global_batch(batch, rows, batch_size) for batch in texts)

    if config.model.intermediate_size is not None:
        with jax.set_mesh(placement.mesh):
            student = narrowing.narrowed(student, config.model.intermediate_size, first_batches(), placement)

    # -------------------------------------------------------------------------------------------------------------------------- steps
    served = budget.LengthDistribution.from_lengths(tokens.served_lengths, tokens.training.lengths, tokens.always_kept(config.skim))
    budget.warn_of_unreachable(config.skim, student.arch, served)
    least = budget.least(student.arch, served) if config.skim.has_budget else 0.0
    train_step = TrainStep.create(config, student, total_steps, teacher, served)
    state = train_step.place(nnx.split(student)[1], placement)
    update = train_step.jitted(state, placement)
    teacher_params: nnx.State | None = None
    if teacher is not None:
        with jax.set_mesh(placement.mesh):
            tokens, teacher_params = teaching.ask(config, task, teacher, tokens, total_steps, placement)
        del teacher  # which keeps its weights, beside those on the devices
    batches = pipeline.training_iterator(tokens.training, tokens.plan, total_steps, tokenizer.pad_token_id, rows)
    checks = Validation(config, task, student.arch, masked.evaluation_step(train_step.graph, placement), tokens, total_steps)

    labelled = tokens.training.labelled
    more = "" if labelled is None else f", {np.sum(~labelled)} of them without labels"
    logger.info("%s: %d training examples%s, %d steps of %d", task.name, len(tokens.training), more, total_steps, batch_size)
    logger.info(
        "%s; mesh data %d x fsdp %d, %d examples a device and step, %.0f MB of parameters and optimiser state on each,"
        " beside the activations of a step, which of long texts are many times as much",
        processes.describe(), placement.mesh.shape["data"], placement.mesh.shape["fsdp"],
        batch_size // placement.device_count, bytes_per_device(state) / 2**20,
    )  # fmt: skip

    # Only now is the workdir written to: a config that turns out to be unusable must not keep the corrected one out of it.
    with (
        claimed(workdir, config, examples_digest),
        jax.set_mesh(placement.mesh),
        Checkpoints(workdir, train.keep_latest, train.save_timeout) as checkpoints,
    ):
        # ------------------------------------------------------------------------------------------------------------------- (re)start
        step, before = 0, Progress()
        if checkpoints.latest_step is not None:
            state, before = checkpoints.restore(state, batches)
            step = int(state.step)
            logger.info("resuming at step %d of %d", step, total_steps)
        elif forwarding.are_fresh(state.params):
            state = dataclasses.replace(state, params=forwarding.fitted(train_step.graph, state.params, first_batches(), placement))
        started = time.monotonic()
        window: list[Scalars] = list(before.open_window)
        closed: tuple[int, list[Scalars]] | None = None
        previous: Scalars | None = None
        evaluated: CheckpointEvaluation | None = None
        beside_bar: dict[str, str] = {}
        first = processes.is_first()
        with (
            Records(workdir, step, before.records) if first else contextlib.nullcontext() as records,
            tqdm(total=total_steps, initial=step, desc="training", unit="step", smoothing=0, disable=not first) as bar,
            Preemption() as preemption,
        ):

            def record(step: int, scalars: dict[str, float], **shown: str) -> None:
                if records is not None:
                    records.write(step, scalars)
                bar.set_postfix(beside_bar | shown, refresh=False)
                beside_bar.update(shown)

            def record_window(step: int, window: list[Scalars]) -> None:
                mean = means(fetch(window, step))
                record(step, mean, loss=f"{mean['task_loss']:.3f}", kept=f"{mean['kept_tokens']:.0%}")

            while step < total_steps:
                # ------------------------------------------------------------------------------------------------------------ one step
                batch = placement.global_batch(next(batches), rows, batch_size)
                state, scalars = update(state, batch, teacher_params)
                step += 1
                if previous is not None:  # so that the host is at most one step ahead of the devices, and the bar tells the truth
                    jax.block_until_ready(previous)
                    bar.update()
                previous = scalars
                preempted = preemption.reached()
                evaluates = evaluates_at(step)
                checkpoint_due = evaluates or (train.save_every is not None and step % train.save_every == 0)

                # ------------------------------------------------------------------------------------------------------------- records
                # A window is read one step after its last, when the next step is under way already.
                if closed is not None:
                    record_window(*closed)
                    closed = None
                window.append(scalars)
                if step % train.log_every == 0 or checkpoint_due:
                    closed, window = (step, window), []
                if not (checkpoint_due or preempted):
                    continue

                # ---------------------------------------------------------------------------------------------- evaluation, checkpoint
                jax.block_until_ready(previous)
                bar.update()
                previous = None
                # The state that is saved has been seen to be finite: in the window that ends here, or in the open one.
                if closed is not None:
                    record_window(*closed)
                    closed = None
                open_window, rank = fetch(window, step), None
                if evaluates:
                    evaluated = checks.evaluate(state.params, step)
                    settled = step >= budget.settles_at(config.skim, total_steps)
                    rank = validation.rank(config.skim, task, evaluated, settled, least)
                    metric = evaluated.first.metrics[task.primary_metric]
                    record(step, evaluated.scalars(), **{task.primary_metric: f"{metric:.4f}"})
                seconds = before.seconds + time.monotonic() - started
                digest = "" if records is None else records.digest
                checkpoints.save(step, state, batches, Progress(seconds, open_window, digest), rank)
                if records is not None:
                    records.publish()
                if preempted:
                    checkpoints.wait()
                    raise Preempted(f"stopped by SIGTERM and saved at step {step} of {total_steps}; the same command resumes")
        seconds = before.seconds + time.monotonic() - started

        # --------------------------------------------------------------------------------------------------------------------- result
        best, best_step = checkpoints.restore_best(state)
        if best_step != step or evaluated is None:
            evaluated = checks.evaluate(best.params, best_step)
        exact, evaluated = checks.with_exact_levels(best.params, evaluated)
        evaluated = checks.with_tests(exact, evaluated)
        result = results.describe(config, task, evaluated, counts, total_steps, best_step, seconds, placement.device_count)
        result |= {"curve": curve} if (curve := checks.curve(exact, evaluated)) else {}
        result["command"] = command
        params = results.on_host(exact, placement)
        if processes.is_first():
            results.write(workdir, student.arch, params, tokenizer, task, config, evaluated, result)
        processes.wait_for_all("result written")
    return result
