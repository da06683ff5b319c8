"""The runs in miniature of tests/training."""

from training.conftest import checkpoint, config, reviews  # noqa: F401
