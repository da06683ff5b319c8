"""The models of a run: the one that is trained, and its teacher; and the task, where that is what the teacher does."""

import contextlib
import dataclasses
import fnmatch
import hashlib
import logging
from typing import Any

from etils import epath

from transkimmer_jax.checkpoints import config_file, folders, huggingface, sentence_transformers
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.checkpoints.tensors import INDEX_FILE, TORCH_FILE
from transkimmer_jax.checkpoints.tokenizer_files import STATE_FILE
from transkimmer_jax.config import Config
from transkimmer_jax.data import pipeline
from transkimmer_jax.data.tasks import FILE_TASKS, TEXTS, Task, get_task, texts_task
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.models.architecture import WELL_KNOWN, Architecture
from transkimmer_jax.models.heads import HEADS
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel
from transkimmer_jax.training.narrowing import narrowed_shapes

logger = logging.getLogger("transkimmer_jax")

_MODEL_FILES = (config_file.CONFIG_FILE, STATE_FILE, INDEX_FILE, TORCH_FILE, "*.safetensors", *sentence_transformers.FILES)
_VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", "*.model")  # of a folder without that file
# What tokenizers of one vocabulary may read differently: case, accents, spaces and what is no word.
_SAMPLE = "Naïve  CAFÉ, don't — 3.14 % of http://a.b\t漢字 🙂"


def load_task(config: Config) -> Task:
    """What a run learns: the task of its data, or to answer as its teacher does. Texts stand behind the teacher's default prompt, which the
    student has too. Labels in files stand in the order of the teacher, or of the model that the run starts from, where that has the same.

    Raises:
      DataError: as `get_task`. CheckpointError: a teacher that cannot be used. ConfigError: it reads pairs where single texts are named, or
        the other way round.
    """
    teacher = config.distill.teacher
    if config.data.task != TEXTS or teacher is None:
        task = get_task(config.data)
        if config.data.task in FILE_TASKS:
            task = _with_known_order(config, task)
        return dataclasses.replace(task, prompt=teacher_settings(config, task.head).default_text)
    folder = resolve(teacher)
    saved = config_file.read(folder)
    head = "sentence_embedding" if config.model.pooling is not None else saved.architecture.head
    _require_its_columns(config, head, saved.task.pairs)
    if config.model.pooling is not None and saved.architecture.head == "sentence_embedding":
        _require_its_pooling(teacher, config.model.pooling)
    prompt = teacher_settings(config, head).default_text
    multi_label = head == "sequence_classification" and saved.architecture.multi_label
    length = config_file.read_length(folder, saved)
    label_column = saved.task.label_column if head == saved.architecture.head else None
    return texts_task(config.data, head, saved.label_names, length, prompt, multi_label, label_column)


def _require_its_pooling(teacher: str, given: str) -> None:
    """Raises `ConfigError` where an embedder's folder says otherwise how it pools: its student would learn other vectors than it has."""
    try:
        own = huggingface.shapes(teacher, "sentence_embedding").pooling.mode
    except CheckpointError:  # a folder that says nothing that can be used
        return
    if own != given:
        raise ConfigError(f"{teacher} pools by {own!r}, not by {given!r}: leave model.pooling (--pooling) out")


def _with_known_order(config: Config, task: Task) -> Task:
    """A task of files, which name labels in no order, in that of a model with this head that has the same labels, but for case."""
    name = config.distill.teacher or config.model.pretrained
    if task.label_names is None or name in WELL_KNOWN:
        return task
    saved = config_file.read(resolve(name))
    if saved.architecture.head != task.head:
        return task
    return dataclasses.replace(task, label_names=config_file.in_order_of(saved.label_names, task.label_names))


def teacher_settings(config: Config, head: str) -> sentence_transformers.Settings:
    """The teacher's prompts and scores, which a student has too; the defaults without a teacher.

    Raises:
      CheckpointError: a teacher that cannot be used.
    """
    name = config.distill.teacher
    if name is None or name in WELL_KNOWN:  # those need no files where shapes alone are asked for
        return sentence_transformers.Settings()
    folder = resolve(name)
    return sentence_transformers.read_settings(folder, head, config_file.read(folder).values)


def student_settings(config: Config, student: Architecture) -> sentence_transformers.Settings:
    """Those of the teacher. An embedder learns the directions of its teacher's vectors, so it says that they are compared by cosine, unless
    all have length 1."""
    settings = teacher_settings(config, student.head)
    if student.head != "sentence_embedding" or student.pooling.normalize:
        return settings
    return dataclasses.replace(settings, similarity=sentence_transformers.Settings.similarity)


def _require_its_columns(config: Config, head: str, pairs: bool | None) -> None:
    """Raises `ConfigError` where a teacher with this head reads other than what `data.text_columns` names.

    pairs: whether its folder says that it reads pairs; None where it does not say.
    """
    if head == "question_answering":
        pairs = True
    columns = config.data.text_columns
    if head in ("question_answering", "sequence_classification") and pairs is not None and pairs != (len(columns) == 2):
        read, cure = ("pairs of texts", "two columns") if pairs else ("single texts", "one column")
        raise ConfigError(
            f"distill.teacher={config.distill.teacher} reads {read}, and data.text_columns is {','.join(columns)}: name {cure} by "
            "--text-columns"
        )


def load_student(config: Config, task: Task) -> TranskimmerPreTrainedModel:
    """The model that a run trains, as it starts.

    Raises:
      CheckpointError: a checkpoint that cannot be used, or has fewer positions than the task's examples.
    """
    options = model_options(config, task)
    saved = config_file.read(resolve(config.model.pretrained))
    _require_as_many_labels(f"model.pretrained={config.model.pretrained}", saved, task)
    student = HEADS[task.head].from_pretrained(config.model.pretrained, seed=config.train.seed, **options)
    require_positions(task, student.arch, config.model.pretrained)
    ours = task.label_names or ()
    if saved.architecture.head == task.head and config_file.in_order_of(saved.label_names, ours) != ours:
        logger.warning(
            "model.pretrained=%s calls its labels %s, and %s calls them %s: its head begins with one as another, and has to learn that",
            config.model.pretrained, ", ".join(saved.label_names or ()), task.name, ", ".join(ours),
        )  # fmt: skip
    return student


def _require_as_many_labels(name: str, saved: config_file.SavedConfig, task: Task) -> None:
    """Raises `CheckpointError` where a model has a trained head for another number of labels. name: as messages call it."""
    theirs = saved.architecture.num_labels
    if saved.names_head and saved.architecture.head == task.head and "classification" in task.head and theirs != task.num_labels:
        raise CheckpointError(
            f"{name} has a head for {theirs} label{'s' * (theirs > 1)}, and {task.name} has {task.num_labels}: give an encoder without it, "
            "or a model of the same labels"
        )


def require_positions(task: Task, arch: Architecture, name: str) -> None:
    """Raises `CheckpointError` where the model called `name` has fewer positions than the task's examples."""
    limit = arch.max_position_embeddings
    if task.max_length > limit:
        raise CheckpointError(f"data.max_length={task.max_length} is more than the {limit} positions of {name}: lower it")


def student_shapes(config: Config, task: Task) -> Architecture:
    """The architecture of the model that a run trains, from files of its checkpoint that are no weights.

    Raises:
      CheckpointError: a checkpoint that cannot be used, or has fewer layers. ConfigError: it has fewer neurons.
    """
    arch = huggingface.shapes(config.model.pretrained, task.head, **model_options(config, task))
    return narrowed_shapes(arch, config.model.intermediate_size)


def load_teacher(config: Config, task: Task, student: Architecture) -> TranskimmerPreTrainedModel | None:
    """The dense model that the student also learns from; None where the config names none.

    Raises:
      CheckpointError: a checkpoint that cannot be used, or that cannot be compared with the student.
    """
    name, pretrained = config.distill.teacher, config.model.pretrained
    if name is None:
        return None
    saved = config_file.read(resolve(name))
    _require_as_many_labels(f"distill.teacher={name}", saved, task)
    teacher = HEADS[task.head].from_pretrained(name, complete=True, **teacher_options(config, task))
    require_positions(task, teacher.arch, name)
    if teacher.arch.vocab_size != student.vocab_size:
        raise CheckpointError(f"distill.teacher={name} has another vocabulary than {pretrained}: start from an encoder with its tokenizer")
    if task.head == saved.architecture.head:  # a classifier that is pooled has no labels
        config_file.require_same_kind_of_labels(f"distill.teacher={name}", saved.architecture.multi_label, task.name, task.multi_label)
    theirs, ours = saved.label_names or (), task.label_names or ()
    if len(theirs) == len(ours):
        if not config_file.same_labels(theirs, ours):
            raise CheckpointError(
                f"distill.teacher={name} calls its labels {', '.join(theirs)}, and {task.name} calls them {', '.join(ours)}: "
                "it would teach one as another; where they mean the same, rename them in id2label of its config.json"
            )
        config_file.warn_of_assumed_order(f"distill.teacher={name}", theirs, task.name, ours)
    if task.head == "sentence_embedding" and teacher.arch.hidden_size != student.hidden_size:
        raise CheckpointError(
            f"distill.teacher={name} has vectors of size {teacher.arch.hidden_size}, {pretrained} of {student.hidden_size}: "
            "they cannot be compared; start from an encoder of the teacher's size"
        )
    compared = teacher_settings(config, task.head).similarity
    if (by := student_settings(config, student).similarity) != compared:
        logger.warning(
            "distill.teacher=%s compares vectors by %s, and a student learns their directions alone: compare the student's by %s",
            name, compared, by,
        )  # fmt: skip
    return teacher


def folder_digest(name: str) -> str | None:
    """The SHA-256 of the digests of a model's settings, tokenizer and weights, in hexadecimal; None where it is no folder that is here.

    A digest that the folder lists is taken as it is, since loading compares the file with it.
    """
    if not (folder := epath.Path(name).expanduser()).is_dir():
        return None
    listed: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        listed = folders.read_digests(folder)
    patterns = _MODEL_FILES if (folder / STATE_FILE).exists() else (*_MODEL_FILES, *_VOCABULARY_FILES)
    names = sorted(path.name for path in folder.iterdir() if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns))
    names += sorted(f"{path.parent.name}/{path.name}" for path in folder.glob(f"*_*/{config_file.CONFIG_FILE}"))  # 1_Pooling's
    lines = [f"{listed.get(file) or folders.digest(folder / file)}  {file}\n" for file in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_tokenizer(config: Config, task: Task, student: Architecture) -> Any:
    """The student's tokenizer, which has to be its teacher's too.

    Raises:
      CheckpointError: a tokenizer that cannot be used, or a teacher that reads texts otherwise.
    """
    name, folder = config.distill.teacher, resolve(config.model.pretrained)
    tokenizer = pipeline.load_tokenizer(folder, student.vocab_size)
    if name is not None and (of_teacher := resolve(name)) != folder:
        other = pipeline.load_tokenizer(of_teacher)
        sample = [_SAMPLE] * (2 if len(task.text_columns) == 2 and task.head != "sentence_embedding" else 1)
        ours, theirs = tokenizer(*sample), other(*sample)
        read = ["input_ids"]
        if config_file.read(of_teacher).architecture.type_vocab_size > 1 and len(sample) == 2:
            read.append("token_type_ids")  # the student's tokenizer gives them to both; of single texts all are 0
        if tokenizer.get_vocab() != other.get_vocab() or any(ours.get(field) != theirs.get(field) for field in read):
            raise CheckpointError(
                f"distill.teacher={name} reads texts otherwise than {config.model.pretrained}: start from an encoder with its tokenizer"
            )
    return tokenizer


def model_options(config: Config, task: Task) -> dict[str, Any]:
    """What a config sets of the model that it trains: options of `from_pretrained` and `huggingface.shapes`."""
    model, skim = config.model, config.skim
    return {
        "dense": not skim.enabled,
        "skim_overrides": {
            **({} if skim.predictor_size is None else {"predictor_size": skim.predictor_size}),
            **({} if skim.layers is None else {"layers": skim.layers}),
            "initial_bias": skim.initial_bias,
            "threshold": skim.initial_threshold,
            "pinned": skim.always_keep,
            "levels": skim.trained_levels,
            "forwarding": skim.forwarding,
        },
        **_head_options(config, task),
        "num_hidden_layers": model.layers if isinstance(model.layers, int) else None,
        "layers": model.layers if isinstance(model.layers, tuple) else None,
        "compute_dtype": model.compute_dtype,
        "remat": model.remat,
        "hidden_dropout": model.dropout,
        "attention_dropout": model.dropout,
    }


def teacher_options(config: Config, task: Task) -> dict[str, Any]:
    """The same of the teacher."""
    return {"dense": True, **_head_options(config, task), "compute_dtype": config.model.compute_dtype}


def _head_options(config: Config, task: Task) -> dict[str, Any]:
    if task.head == "sentence_embedding":
        return {"pooling": config.model.pooling}
    return {"num_labels": task.num_labels, "multi_label": task.multi_label}
