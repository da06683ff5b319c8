"""The folder of a run: whose it is, and what it holds when the run has ended."""

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from etils import epath

from transkimmer_jax import config as configs
from transkimmer_jax import files
from transkimmer_jax.config import Config
from transkimmer_jax.errors import TrainingError
from transkimmer_jax.parallel import processes

logger = logging.getLogger("transkimmer_jax")


def finished_result(workdir: epath.Path, config: Config) -> dict[str, Any] | None:
    """What `result.json` holds where the run in `workdir` has ended; None where it has not.

    Raises:
      TrainingError: the workdir belongs to a run with another config.
    """
    _require_owner(workdir, config)
    path = workdir / "result.json"
    if not path.exists():
        return None
    logger.info("%s holds a finished run", workdir)
    return json.loads(path.read_text())


@contextlib.contextmanager
def claimed(workdir: epath.Path, config: Config) -> Iterator[None]:
    """Write `config.json`, and keep other runs out of the workdir until the block ends.

    Raises:
      TrainingError: another run is writing to the workdir, or the disk is full.
    """
    with files.sole_writer(workdir) if processes.is_first() else contextlib.nullcontext():
        if processes.is_first():
            files.write_json(workdir / "config.json", configs.to_dict(config))
        processes.wait_for_all("config written")
        yield


def _require_owner(workdir: epath.Path, config: Config) -> None:
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
