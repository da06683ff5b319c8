"""Comparison of a checkpoint's tensors with those that an architecture needs, before any of them is read."""

import logging
import pathlib
from collections.abc import Mapping

from transkimmer_jax.checkpoints import names
from transkimmer_jax.checkpoints.tensors import StoredTensor
from transkimmer_jax.errors import CheckpointError
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.validation import shown

logger = logging.getLogger("transkimmer_jax")

_LISTED = 20  # problems that one message names


def require_predictor_size(asked: int | None, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise `CheckpointError` where predictors that are loaded have another width than the user asked for."""
    kernels = (tensor for name, tensor in tensors.items() if name.startswith(names.SKIM_PREFIX) and name.endswith(".predictor.1.weight"))
    widths = {tensor.shape[0] for tensor in kernels if len(tensor.shape) == 2}
    if asked is not None and len(widths) == 1 and widths != {asked}:
        raise CheckpointError(f"predictor_size={asked} of a checkpoint whose trained predictors have {widths.pop()}: leave it out")


def require_fit(arch: Architecture, tensors: Mapping[str, StoredTensor], folder: pathlib.Path, trained: set[names.Path]) -> set[str]:
    """Compare names, shapes and dtypes with those that the architecture needs.

    trained: parts that config.json names, so that none of them is made fresh.

    Returns:
      The modules that the file lacks and that may be made fresh.

    Raises:
      CheckpointError: everything missing, unexpected, of the wrong shape or no floating-point numbers.
    """
    table = names.parameter_table(arch)
    unexpected = set(tensors) - {name for row in table for name in row.names}
    if arch.skim is None:
        dropped = {name for name in unexpected if name.startswith(names.SKIM_PREFIX)}
        if dropped:
            logger.info("%s: left out the skim predictors, the model is dense", folder)
        unexpected -= dropped
    others = names.of_other_heads(unexpected, arch)
    if others:
        logger.info("%s: left out %s", folder, ", ".join(sorted(others)))
    unexpected -= others
    # A part is made fresh where all of it is missing; half of one is damage.
    there = {row.part for row in table if any(name in tensors for name in row.names)} | {None} | trained
    misfits = (_misfit(name, row.shape, tensors) for row in table if row.part in there for name in row.names)
    problems = [misfit for misfit in misfits if misfit is not None]
    problems += [f"unexpected {shown(name)[1:-1]}" for name in sorted(unexpected)]
    if problems:
        more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise CheckpointError(f"{folder} does not fit its config.json: {'; '.join(problems[:_LISTED] + more)}")
    return {row.module for row in table if row.part not in there}


def _misfit(name: str, shape: tuple[int, ...], tensors: Mapping[str, StoredTensor]) -> str | None:
    """What is wrong with the tensor of that name, if anything."""
    tensor = tensors.get(name)
    if tensor is None:
        return f"missing {name}"
    if tensor.shape != shape:
        return f"{name} has shape {tensor.shape}, expected {shape}"
    return None if tensor.is_float else f"{name} has dtype {tensor.dtype}, not one of floating-point numbers"
