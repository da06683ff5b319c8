"""The models of a run: the one that is trained, and its teacher."""

from typing import Any

from transkimmer_jax.config import Config
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.weights import config_file
from transkimmer_jax.weights.files import resolve


def load_student(config: Config, task: Task) -> TranskimmerForSequenceClassification:
    """The model that a run trains, as it starts.

    Raises:
      CheckpointError: a checkpoint that cannot be used, or has fewer positions than the task's examples.
    """
    options = model_options(config, task)
    student = TranskimmerForSequenceClassification.from_pretrained(config.model.pretrained, seed=config.train.seed, **options)
    limit = student.arch.max_position_embeddings
    if task.max_length > limit:
        raise CheckpointError(f"data.max_length={task.max_length} is more than the {limit} positions of {config.model.pretrained}")
    return student


def load_teacher(config: Config, task: Task, student: Architecture) -> TranskimmerForSequenceClassification | None:
    """The dense model that the student also learns from; None where the config names none.

    Raises:
      CheckpointError: a checkpoint that cannot be used, or that cannot be compared with the student.
    """
    name, pretrained = config.distill.teacher, config.model.pretrained
    if name is None:
        return None
    teacher = TranskimmerForSequenceClassification.from_pretrained(name, **teacher_options(config, task))
    if teacher.arch.vocab_size != student.vocab_size:
        raise CheckpointError(f"distill.teacher={name} has another vocabulary than {pretrained}")
    theirs, ours = config_file.read(resolve(name)).label_names or (), task.label_names or ()
    if len(theirs) == len(ours) and not config_file.same_labels(theirs, ours):
        raise CheckpointError(
            f"distill.teacher={name} calls its labels {', '.join(theirs)}, and {task.name} calls them {', '.join(ours)}: "
            "it would teach one as another"
        )
    if config.distill.state_weight > 0 and teacher.arch.hidden_size != student.hidden_size:
        raise CheckpointError(
            f"distill.teacher={name} has states of size {teacher.arch.hidden_size}, {pretrained} of {student.hidden_size}: "
            "they cannot be compared; set distill.state_weight=0"
        )
    return teacher


def model_options(config: Config, task: Task) -> dict[str, Any]:
    """What a config sets of the model that it trains: options of `from_pretrained` and `huggingface.shapes`."""
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


def teacher_options(config: Config, task: Task) -> dict[str, Any]:
    """The same of the teacher."""
    return {"dense": True, "num_labels": task.num_labels, "compute_dtype": config.model.compute_dtype}
