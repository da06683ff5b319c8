"""Which checkpoints a run may go on from: nothing is resumed from that is not, byte for byte, what was written.

A checkpoint gets the digests of its files before Orbax commits it, so each one that is committed has them. What fails is moved to
`checkpoints_damaged/`, and the newest one that is left is resumed from. The result is that of the best checkpoint, so one is of use
only with the best one before it: where that is damaged the run goes back to before it, and comes to it again.
"""

import json
import logging
from typing import Any

from etils import epath

from transkimmer_jax.checkpoints import files, folders
from transkimmer_jax.errors import first_line

logger = logging.getLogger("transkimmer_jax")

# Orbax writes this one last, and nobody reads what is in it.
_COMMIT_MARK = "commit_success.txt"
# Orbax writes this one once more as it commits, with the time.
_METADATA = "_CHECKPOINT_METADATA"


def write_digests(folder: epath.Path, step: int) -> None:
    """Write the digests of a checkpoint that is written and not yet committed, one of those below `folder`."""
    # Locally it has a temporary name, in a bucket its own.
    (written,) = (path for path in folder.iterdir() if path.name == str(step) or path.name.startswith(f"{step}."))
    folders.write_digests(written, leave_out=[_COMMIT_MARK, _METADATA])


def complete_digests(folder: epath.Path, step: int) -> None:
    """Add to the digests of a checkpoint, once it is committed, that of the one file that changed meanwhile.

    A run that is killed before leaves a checkpoint of which that file is read, and all others are verified.
    """
    folders.add_digest(folder / str(step), _METADATA)


def fault(checkpoint: epath.Path) -> str | None:
    """The file of a committed checkpoint that is damaged, and how; None where all are whole."""
    try:
        if not checkpoint.is_dir():
            return "it is no folder"
        if not files.is_remote(checkpoint):
            files.remove_leftovers(checkpoint, [folders.SUMS_FILE])  # of a run that was killed as it completed the digests
        metadata(checkpoint)
        sums = folders.read_digests(checkpoint)
        return folders.fault(checkpoint, sums, [_COMMIT_MARK] if _METADATA in sums else [_COMMIT_MARK, _METADATA])
    except FileNotFoundError as error:
        return f"{epath.Path(error.filename).name if error.filename else 'a file'} is missing"
    except (OSError, ValueError) as error:
        return first_line(error)


def committed(folder: epath.Path) -> dict[int, epath.Path]:
    """The checkpoints below a folder, by their steps, whole or not; without those that are still being written."""
    numbered = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    # Locally only what is committed has a number for its name; what else is in a bucket is for Orbax to clean up.
    return {int(path.name): path for path in numbered if not files.is_remote(path) or (path / _COMMIT_MARK).exists()}


def put_damaged_aside(folder: epath.Path, keep_latest: int) -> None:
    """Leave below `folder` only checkpoints that may be used, the newest of which is to be resumed from.

    What retention, of `keep_latest` and of the best, would have deleted is deleted: where a run is killed while Orbax deletes, a part
    of a checkpoint stays.
    """
    paths = committed(folder)
    steps = sorted(paths)
    faults = {step: reason for step in steps if (reason := fault(paths[step])) is not None}
    whole = [step for step in steps if step not in faults]
    best = {step: metadata(paths[step]).get("best") for step in whole}
    # A best one that is not there was deleted since a later one is better, which the run has, or comes to again.
    resumed = max((step for step in whole if best[step] not in faults), default=None)
    instead = "the run starts from the beginning" if resumed is None else f"the one of step {resumed} is used"
    # The newest first: a kill in between leaves none without the best one that it depends on.
    for step in reversed(steps):
        if step in faults:
            newer = [other for other in whole if resumed is not None and step < other <= resumed]
            if resumed is not None and len(newer) >= keep_latest and best[resumed] != step:
                logger.info("checkpoint %s was being deleted when the run ended: deleted", paths[step])
                paths[step].rmtree() if paths[step].is_dir() else paths[step].unlink()
                continue
            _move_aside(paths[step], f"is damaged ({faults[step]})", instead)
        elif resumed is None or step > resumed:
            _move_aside(paths[step], f"cannot be used without the best one before it, of step {best[step]}, which is damaged", instead)


def metadata(checkpoint: epath.Path) -> dict[str, Any]:
    """What `Checkpoints.save` noted of a checkpoint. Raises `ValueError` where it cannot be read, `OSError` where it is missing."""
    noted = _read_object(checkpoint, _METADATA).get("custom_metadata")
    if not isinstance(noted, dict):
        raise ValueError(f"{_METADATA} is not what was written")
    return noted


def _read_object(checkpoint: epath.Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads((checkpoint / name).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON") from error
    if not isinstance(values, dict):
        raise ValueError(f"{name} is not what was written")
    return values


def _move_aside(path: epath.Path, what: str, instead: str) -> None:
    aside = path.parent.parent / "checkpoints_damaged" / path.name
    logger.warning("checkpoint %s %s: moved to %s, %s", path, what, aside, instead)
    aside.parent.mkdir(parents=True, exist_ok=True)
    if aside.exists():
        aside.rmtree() if aside.is_dir() else aside.unlink()
    path.rename(aside)
