"""The folder of a run: whose it is, and what it holds when the run has ended."""

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from etils import epath

from transkimmer_jax import checksums, files
from transkimmer_jax import config as configs
from transkimmer_jax.config import Config, Recipe
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.parallel import processes
from transkimmer_jax.training import verification

logger = logging.getLogger("transkimmer_jax")

_CONFIG, _RESULT, _METRICS = "config.json", "result.json", "metrics.jsonl"
_DIGESTED = (_CONFIG, _METRICS, _RESULT)


def finished_result(workdir: epath.Path, config: Config | Recipe) -> dict[str, Any] | None:
    """What `result.json` holds where the run, or the recipe, in `workdir` has ended; None where it has not.

    Raises:
      TrainingError: the workdir belongs to another config, or recipe, or its files are damaged.
    """
    _require_owner(workdir, config)
    path = workdir / _RESULT
    if not path.exists():
        return None
    damaged = _damaged(workdir)
    if _RESULT in damaged:
        raise TrainingError(_anew(path, f"another SHA-256 than in {checksums.SUMS_FILE}"))
    for name in damaged:
        logger.warning("%s is not what was written: another SHA-256 than in %s", workdir / name, checksums.SUMS_FILE)
    try:
        result = _read_object(path)
    except ValueError as error:
        raise TrainingError(_anew(path, str(error))) from error
    logger.info("%s holds a finished run", workdir)
    return result


def write_result(workdir: epath.Path, result: dict[str, Any]) -> None:
    """Write `result.json`, which ends the run, and digests of the files that tell of it."""
    files.write_json(workdir / _RESULT, result)
    checksums.write_of(workdir, [name for name in _DIGESTED if (workdir / name).exists()])


@contextlib.contextmanager
def claimed(workdir: epath.Path, config: Config) -> Iterator[None]:
    """Write `config.json`, keep other runs out of the workdir until the block ends, and delete what killed ones have left unfinished.

    Raises:
      TrainingError: another run is writing to the workdir, or the disk is full.
    """
    with files.sole_writer(workdir) if processes.is_first() else contextlib.nullcontext():
        if processes.is_first():
            if not files.is_remote(workdir):
                files.remove_leftovers(workdir, [*_DIGESTED, checksums.SUMS_FILE, "model"])
            files.write_json(workdir / _CONFIG, to_write(config))
        processes.wait_for_all("config written")
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


def _require_owner(workdir: epath.Path, config: Config | Recipe) -> None:
    """Refuse a workdir that another config has written; on which devices it was is not asked."""
    path = workdir / _CONFIG
    values = to_write(config)
    if not path.exists():
        return
    try:
        written = _read_object(path)
    except ValueError as error:
        raise TrainingError(
            f"{path} {error}, so nobody knows whose run this is: restore it, or delete it if it is this config's"
        ) from error
    if any("." in section for section in written) != isinstance(config, Recipe):
        one, other = ("a single run", "a recipe of two") if isinstance(config, Recipe) else ("a recipe of two runs", "a single one")
        raise TrainingError(f"{workdir} belongs to {one}, not to {other}; choose another --workdir")
    # A field that is newer than the run is what it is by default, as it was when there was none.
    default = configs.to_dict(Config())
    complete = {section: default[section.rpartition(".")[2]] | written.get(section, {}) for section in values}
    any_mesh: dict[str, Any] = {section: {} for section in values if section.rpartition(".")[2] == "mesh"}
    changed = configs.difference(written | complete | any_mesh, values | any_mesh)
    if changed:
        raise TrainingError(f"{workdir} belongs to a run with another config: {', '.join(changed)}; choose another --workdir")


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
        sums = checksums.read(workdir)
    except FileNotFoundError:
        return []
    except ValueError as error:
        logger.warning("%s: %s", workdir, error)
        return []
    return [name for name, value in sums.items() if not (workdir / name).is_file() or checksums.digest(workdir / name) != value]


def _anew(path: epath.Path, what: str) -> str:
    return f"{path} is damaged ({what}): restore it, or delete it, and the same command makes it anew from the checkpoints"
