"""Numbers that a model's files can hold: finite as float32, in which thresholds are compared with margins."""

from typing import Any

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.validation import shown

FLOAT32_MAX = 3.4e38


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that is finite as float32."""
    return type(value) in (int, float) and -FLOAT32_MAX <= value <= FLOAT32_MAX


def unboxed(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's own number; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def storable_threshold(threshold: Any) -> float | None:
    """A threshold for a model's files; None stands for the model's own. Raises `ConfigError` for any other value."""
    threshold = unboxed(threshold)
    if threshold is not None and not is_finite_number(threshold):
        raise ConfigError(f"threshold must be a finite number, not {shown(threshold)}")
    return threshold
