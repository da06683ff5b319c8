"""Options that a model cannot honour."""

from typing import TYPE_CHECKING

from transkimmer_jax.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transkimmer_jax.models.architecture import Architecture


def require_skimming(model: str, arch: "Architecture", **options: object) -> None:
    """Raises `ConfigError` where options that choose a budget are given for a dense model. options: values by name."""
    given = next((name for name, value in options.items() if value not in (None, [], ())), None)
    if arch.skim is None and given is not None:
        raise ConfigError(f"--{given.replace('_', '-')} is of skimming models, and {model} is a dense one: leave it out")


def require_positions(model: str, arch: "Architecture", max_length: int | None, flag: str = "--max-length") -> None:
    """Raises `CheckpointError` for more tokens than a model has positions, of which the engine would read fewer without a word."""
    limit = arch.max_position_embeddings
    if max_length is not None and max_length > limit:
        raise CheckpointError(f"{max_length} tokens are more than the {limit} positions of {model}: give a lower {flag}")
