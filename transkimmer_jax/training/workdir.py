"""The folder of a run: the config, data and models that it belongs to, and its result."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from etils import epath
from pydantic import Field, ValidationError

from transkimmer_jax import config as configs
from transkimmer_jax.checkpoints import files, folders
from transkimmer_jax.config import Config, Recipe
from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import verification
from transkimmer_jax.training.models import folder_digest
from transkimmer_jax.validation import Schema

logger = logging.getLogger("transkimmer_jax")

_CONFIG, _DATA, _RESULT, _METRICS = "config.json", "data.json", "result.json", "metrics.jsonl"
_DIGESTED = (_CONFIG, _DATA, _METRICS, _RESULT)


class Origin(Schema):
    """`data.json`: what a run began with. examples: digest of its texts and labels, see `RunExamples.digest`. files: digests of the user's
    files by path. models: digests of model folders by config field, which older runs lack."""

    examples: str
    files: dict[str, str]
    models: dict[str, str] = Field(default_factory=dict)


def finished_result(workdir: epath.Path, config: Config | Recipe) -> dict[str, Any] | None:
    """The content of `result.json`; None where the run, or recipe, in `workdir` has not ended.

    Raises:
      TrainingError: the workdir belongs to another config or recipe, the data or models have changed, or the result is damaged.
    """
    _require_owner(workdir, config)
    path = workdir / _RESULT
    if not path.exists():
        return None
    anew = "restore it, or delete it, and the same command makes it anew from the checkpoints"
    runs = {workdir: config} if isinstance(config, Config) else _runs(workdir, config)
    damaged = {folder: _damaged(folder) for folder in (workdir, *runs)}
    if _RESULT in damaged[workdir]:
        raise TrainingError(f"{path} is damaged (another SHA-256 than in {folders.SUMS_FILE}): {anew}")
    for folder, names in damaged.items():
        for name in names:
            logger.warning("%s is not what was written: another SHA-256 than in %s", folder / name, folders.SUMS_FILE)
    try:
        result = _read_object(path)
    except ValueError as error:
        raise TrainingError(f"{path} is damaged ({error}): {anew}") from error
    for folder, run in runs.items():
        if _DATA not in damaged[folder]:
            require_unchanged(folder, run)
    logger.info("%s holds a finished run", workdir)
    return result


def write_result(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `result.json`, which ends the run, and digests of the workdir's own files."""
    files.write_json(workdir / _RESULT, result)
    folders.write_digests(workdir, [name for name in _DIGESTED if (workdir / name).exists()])


def require_unchanged(workdir: epath.Path, config: Config, examples: str | None = None) -> None:
    """Refuse other data or models than a run began with. A workdir without `data.json` passes, and so do files and folders that are gone.

    examples: see `Origin`; None compares the user's files instead, for a finished run, which reads no texts.

    Raises:
      TrainingError: the texts, labels or models have changed, or `data.json` is damaged.
    """
    origin = _read_origin(workdir)
    if origin is None:
        return
    changed = []
    if examples is None:
        for path, field in _data_files(config).items():
            digest = _file_digest(path)
            if digest is not None and origin.files.get(path, digest) != digest:
                changed.append(field)
    elif origin.examples != examples:
        changed = list(_data_files(config).values())
        if not any(field.startswith("data.") for field in changed):
            changed.insert(0, f"data.task={config.data.task!r}")
    if changed:
        names = ", ".join(dict.fromkeys(changed))
        raise TrainingError(
            f"the texts or labels of {names} are not those that the run in {workdir} began with: restore them, or choose another folder"
        )
    for field, digest in _model_digests(config).items():
        if origin.models.get(field, digest) != digest:
            raise TrainingError(
                f"{field}={_models(config)[field]} is not the model that the run in {workdir} began with: restore it, or choose another "
                "folder"
            )


def _models(config: Config) -> dict[str, str]:
    """The models that a run begins with, by field."""
    teacher = config.distill.teacher
    return {"model.pretrained": config.model.pretrained} | ({} if teacher is None else {"distill.teacher": teacher})


def _model_digests(config: Config) -> dict[str, str]:
    """Digests of the models in local folders, by field."""
    models = _models(config)
    digests = {name: folder_digest(name) for name in set(models.values())}  # a student often starts from its teacher: once
    return {field: digest for field, name in models.items() if (digest := digests[name]) is not None}


def _data_files(config: Config) -> dict[str, str]:
    """The config fields of the user's files that a run reads, by path."""
    data, distill = config.data, config.distill
    paths = {f"data.{name}": getattr(data, name) for name in ("train_file", "validation_file", "test_file")}
    named = [*paths.items(), *(("data.text_files", path) for path in data.text_files), ("distill.unlabelled_file", distill.unlabelled_file)]
    return {path: field for field, path in named if path is not None}


def _runs(workdir: epath.Path, recipe: Recipe) -> dict[epath.Path, Config]:
    """The runs of a recipe, by their folders."""
    return {workdir / "dense": recipe.dense, workdir / "skimming": recipe.student_config(os.fspath(workdir / "dense" / "model"))}


def _read_origin(workdir: epath.Path) -> Origin | None:
    path = workdir / _DATA
    if not path.exists():
        return None
    try:
        return Origin.model_validate(_read_object(path))
    except ValueError as error:
        reason = "is damaged: it holds something else than was written" if isinstance(error, ValidationError) else error
        raise TrainingError(
            f"{path} {reason}, so nobody knows what this run was trained on: restore it, or delete it if the data are the same"
        ) from error


@contextlib.contextmanager
def claimed(workdir: epath.Path, config: Config, examples: str) -> Iterator[None]:
    """Write `config.json` and, once, `data.json`; keep other runs out of the workdir until the block ends; delete leftovers of killed runs.

    The first of several processes writes, and all compare, since each has read a config and data of its own.

    examples: as for `require_unchanged`.

    Raises:
      TrainingError: another run is writing to the workdir, the disk is full, or this process has another config or other data than the
        first.
    """
    with files.sole_writer(workdir) if processes.is_first() else contextlib.nullcontext():
        if processes.is_first():
            if not files.is_remote(workdir):
                files.remove_leftovers(workdir, [*_DIGESTED, folders.SUMS_FILE, "model"])
            files.write_json(workdir / _CONFIG, to_write(config))
            if not (workdir / _DATA).exists():
                digests = {path: folders.digest(epath.Path(path)) for path in _data_files(config)}
                origin = Origin(examples=examples, files=digests, models=_model_digests(config))
                files.write_json(workdir / _DATA, origin.model_dump())
        processes.wait_for_all("config written")
        _require_owner(workdir, config)
        require_unchanged(workdir, config, examples)
        yield


def what_is_saved(workdir: epath.Path) -> str:
    """What a run that is stopped leaves, and what the same command does with it, for a message."""
    steps = verification.committed(workdir / "checkpoints")
    return f"saved at step {max(steps)}; the same command resumes" if steps else "nothing is saved yet; the same command starts again"


def to_write(config: Config | Recipe) -> dict[str, Any]:
    """The content of `config.json`: fields by section, of a recipe by 'dense.SECTION' and 'skimming.SECTION'."""
    if isinstance(config, Config):
        return configs.to_dict(config)
    runs = {"dense": config.dense, "skimming": config.skimming}
    return {f"{run}.{section}": fields for run, settings in runs.items() for section, fields in configs.to_dict(settings).items()}


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
    """The content of `config.json`, see `to_write`; None before a run begins.

    Raises:
      TrainingError: it is damaged.
    """
    path = workdir / _CONFIG
    if not path.exists():
        return None
    try:
        values = _read_object(path)
        if not all(isinstance(section, dict) for section in values.values()):
            raise ValueError("is damaged: it holds something else than was written")
    except ValueError as error:
        raise TrainingError(
            f"{path} {error}, so nobody knows whose run this is: restore it, or delete it if it is this config's"
        ) from error
    return values


def _require_owner(workdir: epath.Path, config: Config | Recipe) -> None:
    """Refuse a workdir that another config has written; the mesh may differ."""
    values, written = to_write(config), read_config(workdir)
    if written is None:
        return
    if any("." in section for section in written) != isinstance(config, Recipe):
        one, other = ("a single run", "a recipe of two") if isinstance(config, Recipe) else ("a recipe of two runs", "a single one")
        raise TrainingError(f"{workdir} belongs to {one}, not to {other}; choose another folder")
    written = _with_dense_model_here(written, values, workdir)
    # A field that is newer than the run had its default then.
    default = configs.to_dict(Config())
    complete = {section: default[section.rpartition(".")[2]] | written.get(section, {}) for section in values}
    any_mesh: dict[str, Any] = {section: {} for section in values if section.rpartition(".")[2] == "mesh"}
    changed = configs.difference(written | complete | any_mesh, values | any_mesh)
    if changed:
        raise TrainingError(f"{workdir} belongs to a run with another config: {', '.join(changed)}; choose another folder")


def _with_dense_model_here(written: dict[str, Any], values: dict[str, Any], workdir: epath.Path) -> dict[str, Any]:
    """`written`, with the dense model of a recipe's skimming run at its present path: the recipe's folder may have moved."""
    own = workdir.parent / "dense" / "model"
    for section, field in (("model", "pretrained"), ("distill", "teacher")):
        here, there = (fields.get(section, {}).get(field) for fields in (values, written))
        if here == os.fspath(own) and isinstance(there, str) and epath.Path(there).parts[-2:] == own.parts[-2:]:
            written = written | {section: written[section] | {field: here}}
    return written


def _read_object(path: epath.Path) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` with what the file is instead."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("is damaged: it holds something else than was written")
    return values


def _damaged(workdir: epath.Path) -> list[str]:
    """Files of a finished run that differ from their digests; none where the digests are missing or damaged."""
    try:
        sums = folders.read_digests(workdir)
    except FileNotFoundError:
        return []
    except ValueError as error:
        logger.warning("%s: %s", workdir, error)
        return []
    return [name for name, value in sums.items() if _file_digest(workdir / name) != value]


def _file_digest(path: str | os.PathLike) -> str | None:
    return folders.digest(path) if epath.Path(path).is_file() else None
