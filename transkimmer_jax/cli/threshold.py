"""The flag `--threshold`, which several commands have."""

import argparse

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.weights.schema import is_finite_number


def add_threshold(parser: argparse.ArgumentParser, default: str = "the model's") -> None:
    """Declare the flag; None where it is not given. default: what that stands for."""
    meaning = f"share of FLOPs to save, of a model for several budgets; else the margin that a token must exceed (default: {default})"
    parser.add_argument("--threshold", type=_finite, metavar="T", help=meaning)


def _finite(text: str) -> float:
    """The number. Raises `ConfigError` for one that no margin can be compared with: it would skim all, or nothing, in silence."""
    value = float(text)
    if not is_finite_number(value):
        raise ConfigError(f"--threshold must be a finite number, not {text}")
    return value
