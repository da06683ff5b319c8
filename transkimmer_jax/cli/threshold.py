"""The flag `--threshold`, which several commands have, and others of its kind."""

import argparse
import functools
import math
from typing import TYPE_CHECKING

from transkimmer_jax.checkpoints.thresholds import is_finite_number
from transkimmer_jax.errors import ConfigError

if TYPE_CHECKING:
    from transkimmer_jax.models.architecture import Architecture


def add_threshold(parser: argparse._ActionsContainer, default: str = "the model's", flag: str = "--threshold") -> None:
    """Declare the flag; None where it is not given. default: what that stands for."""
    meaning = (
        "of a model for several budgets, the share to save of what these count: FLOPs, or tokens (skim.target_kind); else the margin"
        f" that a token must exceed (default: {default})"
    )
    parser.add_argument(flag, type=functools.partial(_finite, flag), metavar="T", help=meaning)


def require_skimming(model: str, arch: "Architecture", **flags: object) -> None:
    """Raises `ConfigError` where flags that choose a budget are given for a dense model, which has none. flags: values by their names."""
    given = next((flag for flag, value in flags.items() if value not in (None, [])), None)
    if arch.skim is None and given is not None:
        raise ConfigError(f"--{given.replace('_', '-')} is of skimming models, and {model} is a dense one: leave it out")


def _finite(flag: str, text: str) -> float:
    """The number. Raises `ConfigError` for one that no margin can be compared with: it would skim all, or nothing, in silence."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_finite_number(value):
        raise ConfigError(f"{flag} must be a finite number, not {text}")
    return value
