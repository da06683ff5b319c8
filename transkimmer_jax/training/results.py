"""What a run leaves behind: the folder `model/` of its best checkpoint, and `result.json`."""

import logging
from typing import Any

import jax
from etils import epath
from flax import nnx

from transkimmer_jax.checkpoints import config_file, huggingface
from transkimmer_jax.checkpoints.locations import is_hub_id, resolve
from transkimmer_jax.checkpoints.model_card import Provenance
from transkimmer_jax.config import Config
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.evaluation import summary
from transkimmer_jax.inference.calibration import CALIBRATION_FILE, Calibration
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.training.models import student_settings
from transkimmer_jax.training.validation import CheckpointEvaluation
from transkimmer_jax.training.workdir import write_result

logger = logging.getLogger("transkimmer_jax")


def on_host(params: nnx.State, placement: Placement) -> nnx.State:
    """Parameters that the mesh shares, whole in this process's memory; called by all processes."""
    return jax.device_get(jax.jit(lambda tree: tree, out_shardings=placement.replicated)(params))


def describe(
    config: Config,
    task: Task,
    evaluated: CheckpointEvaluation,
    counts: dict[str, int],
    total_steps: int,
    best_step: int,
    seconds: float,
    device_count: int,
) -> dict[str, Any]:
    """The content of `result.json`, but for the command. counts: texts of each split."""
    return {
        **summary.describe(task, evaluated.splits, counts),
        "threshold": evaluated.threshold,
        "task": task.name,
        "steps": total_steps,
        "best_step": best_step,
        "seconds": round(seconds, 1),
        "seed": config.train.seed,
        "device": jax.devices()[0].device_kind,
        "devices": device_count,
        "train_examples": config.data.train_examples,
        "pretrained": config.model.pretrained,
    }


def require_savable(workdir: epath.Path, config: Config, task: Task, arch: Architecture, tokenizer: Any) -> None:
    """Raises `CheckpointError` for a model that `write` could not save, or a `model/` that it would not replace: before it is trained."""
    huggingface.require_replaceable(workdir / "model")
    values = config_file.to_values(arch, task.label_names, tokenizer.pad_token_id) | {"task": _described(task, config.data.doc_stride)}
    config_file.parse(values, f"cannot train {config.model.pretrained}")


def _described(task: Task, doc_stride: int) -> dict[str, Any]:
    """What `config.json` says of the task. A tagger that learned from texts is judged by words with tags, which are in other columns."""
    columns = list(task.text_columns[:1] if task.texts_are_apart else task.text_columns)
    return {
        "name": task.name,
        "max_length": task.max_length,
        **({} if task.head == "token_classification" and task.judge == "teacher" else {"text_columns": columns}),
        "label_column": task.label_column,
        **({"doc_stride": doc_stride} if task.head == "question_answering" else {}),
    }


def write(
    workdir: epath.Path,
    arch: Architecture,
    params: nnx.State,
    tokenizer: Any,
    task: Task,
    config: Config,
    evaluated: CheckpointEvaluation,
    result: dict[str, Any],
) -> None:
    """Write `model/`, with the kept tokens of the validation texts beside the weights, and then `result.json`.

    params: whole, in this process's memory. The model's threshold is the one at which it was evaluated.

    Raises:
      TrainingError: the disk is full.
    """
    served, extra_files = arch.with_threshold(evaluated.threshold), {}
    pretrained = config.model.pretrained
    if served.skim is not None:
        # So that an engine starts with ladders that fit (docs/design.md, section 4.1).
        seen = evaluated.first.predictions
        extra_files[CALIBRATION_FILE] = Calibration.of(seen.lengths, seen.kept, evaluated.threshold).to_json()
    extra: dict[str, Any] = {"task": _described(task, config.data.doc_stride)}
    if served.is_regression and task.judge == "teacher":
        assert config.distill.teacher is not None
        extra |= config_file.value_fields(config_file.read(resolve(config.distill.teacher)))
    graph = nnx.split(HEADS[served.head].abstract(served))[0]
    nnx.merge(graph, params).save_pretrained(
        workdir / "model",
        tokenizer=tokenizer,
        label_names=task.label_names,
        extra_config=extra,
        settings=student_settings(config, served),
        extra_files=extra_files,
        provenance=Provenance(pretrained if is_hub_id(pretrained) else None, task.name, {task.primary_metric: result["value"]}),
    )
    write_result(workdir, result)
    logger.info("%s %.4f, %.1f %% of the tokens kept", task.primary_metric, result["value"], 100 * evaluated.first.kept_tokens)
