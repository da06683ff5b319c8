"""The folder of a run: whose it is, and what it holds when the run has ended."""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from transkimmer_jax import config as configs
from transkimmer_jax.checkpoints import files, folders
from transkimmer_jax.config import Config, Recipe
from transkimmer_jax.distributed import processes
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.training import verification
from transkimmer_jax.training.models import folder_digest

logger = logging.getLogger("transkimmer_jax")

_CONFIG, _DATA, _RESULT, _METRICS = "config.json", "data.json", "result.json", "metrics.jsonl"
_DIGESTED = (_CONFIG, _DATA, _METRICS, _RESULT)


def finished_result(workdir: epath.Path, config: Config | Recipe) -> dict[str, Any] | None:
    """What `result.json` holds where the run, or the recipe, in `workdir` has ended; None where it has not.

    Raises:
      TrainingError: the workdir belongs to another config, or recipe, the files or models it began with have changed, or its own files are
        damaged.
    """
    _require_owner(workdir, config)
    path = workdir / _RESULT
    if not path.exists():
        return None
    runs = {workdir: config} if isinstance(config, Config) else _runs(workdir, config)
    damaged = {folder: _damaged(folder) for folder in (workdir, *runs)}
    if _RESULT in damaged[workdir]:
        raise TrainingError(_anew(path, f"another SHA-256 than in {folders.SUMS_FILE}"))
    for folder, names in damaged.items():
        for name in names:
            logger.warning("%s is not what was written: another SHA-256 than in %s", folder / name, folders.SUMS_FILE)
    try:
        result = _read_object(path)
    except ValueError as error:
        raise TrainingError(_anew(path, str(error))) from error
    for folder, run in runs.items():
        if _DATA not in damaged[folder]:
            _require_unchanged_files(folder, run)
            _require_unchanged_models(folder, run)
    logger.info("%s holds a finished run", workdir)
    return result


def write_result(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `result.json`, which ends the run, and digests of the files that tell of it."""
    files.write_json(workdir / _RESULT, result)
    folders.write_digests(workdir, [name for name in _DIGESTED if (workdir / name).exists()])


def require_unchanged(workdir: epath.Path, config: Config, examples: str) -> None:
    """Refuse to go on with other data, or other models, than a run began with; a workdir without `data.json` goes on.

    examples: digest of the texts and labels, see `RunExamples.digest`.

    Raises:
      TrainingError: the texts, labels or models have changed, or `data.json` is damaged.
    """
    began = _read_data(workdir)
    if began is not None and began["examples"] != examples:
        raise TrainingError(_other_data(workdir, _data_fields(config)))
    _require_unchanged_models(workdir, config)


def _require_unchanged_files(workdir: epath.Path, config: Config) -> None:
    """Refuse where a file of a finished run, whose data nobody reads again, holds something else; one that is gone is not missed."""
    began = _read_data(workdir)
    digests = {} if began is None else began["files"]
    changed = [
        field
        for field, path in _data_files(config)
        if path in digests and epath.Path(path).is_file() and folders.digest(epath.Path(path)) != digests[path]
    ]
    if changed:
        raise TrainingError(_other_data(workdir, changed))


def _require_unchanged_models(workdir: epath.Path, config: Config) -> None:
    """Refuse where a model is another than the run began with; one whose folder is gone, or has no digest, is not missed."""
    began = (_read_data(workdir) or {}).get("models", {})
    for field, digest in _model_digests(config).items():
        if began.get(field, digest) != digest:
            raise TrainingError(
                f"{field}={_models(config)[field]} is not the model that the run in {workdir} began with: restore it, or choose another "
                "folder"
            )


def _models(config: Config) -> dict[str, str]:
    """The models that a run begins with, by field."""
    teacher = config.distill.teacher
    return {"model.pretrained": config.model.pretrained} | ({} if teacher is None else {"distill.teacher": teacher})


def _model_digests(config: Config) -> dict[str, str]:
    """Of those in folders that are here, by field."""
    models = _models(config)
    digests = {name: folder_digest(name) for name in set(models.values())}  # a student often starts from its teacher: once
    return {field: digest for field, name in models.items() if (digest := digests[name]) is not None}


def _runs(workdir: epath.Path, recipe: Recipe) -> dict[epath.Path, Config]:
    """The runs of a recipe, by their folders."""
    return {workdir / "dense": recipe.dense, workdir / "skimming": recipe.after(os.fspath(workdir / "dense" / "model"))}


def _other_data(workdir: epath.Path, fields: Iterable[str]) -> str:
    names = ", ".join(dict.fromkeys(fields))
    return f"the texts or labels of {names} are not those that the run in {workdir} began with: restore them, or choose another folder"


def _data_files(config: Config) -> list[tuple[str, str]]:
    """The user's files that a run reads: (field, path)."""
    data, more = config.data, config.distill.unlabelled_file
    files = [(f"data.{name}", getattr(data, name)) for name in ("train_file", "validation_file", "test_file")]
    files += [("data.text_files", path) for path in data.text_files] + [("distill.unlabelled_file", more)]
    return [(field, path) for field, path in files if path is not None]


def _data_fields(config: Config) -> list[str]:
    """The fields that say what a run reads."""
    fields = [field for field, _ in _data_files(config)]
    return fields if any(field.startswith("data.") for field in fields) else [f"data.task={config.data.task!r}", *fields]


def _read_data(workdir: epath.Path) -> dict[str, Any] | None:
    """What `data.json` holds: 'examples', a digest, 'files', digests by path, and 'models', digests by field, which older runs have not.
    None where there is none."""
    path = workdir / _DATA
    if not path.exists():
        return None
    try:
        values = _read_object(path)
        digests = (values.get("files"), values.get("models", {}))
        if not isinstance(values.get("examples"), str) or not all(isinstance(of_kind, dict) for of_kind in digests):
            raise ValueError("is damaged: it holds something else than was written")
    except ValueError as error:
        raise TrainingError(
            f"{path} {error}, so nobody knows what this run was trained on: restore it, or delete it if the data are the same"
        ) from error
    return values


@contextlib.contextmanager
def claimed(workdir: epath.Path, config: Config, examples: str) -> Iterator[None]:
    """Write `config.json` and, where none is there, `data.json`, keep other runs out of the workdir until the block ends, and delete what
    killed ones have left unfinished.

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
                digests = {path: folders.digest(epath.Path(path)) for _, path in _data_files(config)}
                files.write_json(workdir / _DATA, {"examples": examples, "files": digests, "models": _model_digests(config)})
        processes.wait_for_all("config written")
        _require_owner(workdir, config)
        require_unchanged(workdir, config, examples)
        yield


def what_is_saved(workdir: epath.Path) -> str:
    """What a run that is stopped leaves, and what the same command does with it."""
    steps = verification.committed(workdir / "checkpoints")
    return f"saved at step {max(steps)}; the same command resumes" if steps else "nothing is saved yet; the same command starts again"


def to_write(config: Config | Recipe) -> dict[str, Any]:
    """The content of `config.json`: fields by section, of a recipe by 'dense.SECTION' and 'skimming.SECTION'."""
    if isinstance(config, Config):
        return configs.to_dict(config)
    runs = {"dense": config.dense, "skimming": config.skimming}
    return {f"{run}.{section}": fields for run, settings in runs.items() for section, fields in configs.to_dict(settings).items()}


def read_config(workdir: epath.Path) -> dict[str, Any] | None:
    """What the run in `workdir` has written to `config.json`, see `to_write`; None where none has begun.

    Raises:
      TrainingError: it is damaged.
    """
    path = workdir / _CONFIG
    if not path.exists():
        return None
    try:
        return _read_object(path)
    except ValueError as error:
        raise TrainingError(
            f"{path} {error}, so nobody knows whose run this is: restore it, or delete it if it is this config's"
        ) from error


def _require_owner(workdir: epath.Path, config: Config | Recipe) -> None:
    """Refuse a workdir that another config has written; on which devices it was is not asked."""
    values, written = to_write(config), read_config(workdir)
    if written is None:
        return
    if any("." in section for section in written) != isinstance(config, Recipe):
        one, other = ("a single run", "a recipe of two") if isinstance(config, Recipe) else ("a recipe of two runs", "a single one")
        raise TrainingError(f"{workdir} belongs to {one}, not to {other}; choose another folder")
    written = _with_dense_model_here(written, values, workdir)
    # A field that is newer than the run is what it is by default, as it was when there was none.
    default = configs.to_dict(Config())
    complete = {section: default[section.rpartition(".")[2]] | written.get(section, {}) for section in values}
    any_mesh: dict[str, Any] = {section: {} for section in values if section.rpartition(".")[2] == "mesh"}
    changed = configs.difference(written | complete | any_mesh, values | any_mesh)
    if changed:
        raise TrainingError(f"{workdir} belongs to a run with another config: {', '.join(changed)}; choose another folder")


def _with_dense_model_here(written: dict[str, Any], values: dict[str, Any], workdir: epath.Path) -> dict[str, Any]:
    """The fields in `written`, those of a recipe's skimming run with its dense model where `values` have it: the recipe's folder may have
    moved since, or be typed otherwise."""
    own = workdir.parent / "dense" / "model"
    for section, field in (("model", "pretrained"), ("distill", "teacher")):
        here, there = (fields.get(section, {}).get(field) for fields in (values, written))
        if here == os.fspath(own) and isinstance(there, str) and epath.Path(there).parts[-2:] == own.parts[-2:]:
            written = written | {section: written[section] | {field: here}}
    return written


def _read_object(path: epath.Path) -> dict[str, Any]:
    """Raises `ValueError`, which says what the file is."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    if not isinstance(values, dict) or (path.name == _CONFIG and not all(isinstance(section, dict) for section in values.values())):
        raise ValueError("is damaged: it holds something else than was written")
    return values


def _damaged(workdir: epath.Path) -> list[str]:
    """Files of a finished run that are not what was written; none where no digests are there, or where those are damaged."""
    try:
        sums = folders.read_digests(workdir)
    except FileNotFoundError:
        return []
    except ValueError as error:
        logger.warning("%s: %s", workdir, error)
        return []
    return [name for name, value in sums.items() if not (workdir / name).is_file() or folders.digest(workdir / name) != value]


def _anew(path: epath.Path, what: str) -> str:
    return f"{path} is damaged ({what}): restore it, or delete it, and the same command makes it anew from the checkpoints"
