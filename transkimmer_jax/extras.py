"""Packages that not everybody needs come by the package's extras (pyproject.toml); where one is missing, an error says which."""

import contextlib
from collections.abc import Iterator

from transkimmer_jax.errors import ConfigError, TranskimmerError


@contextlib.contextmanager
def needed(extra: str, purpose: str, error: type[TranskimmerError] = ConfigError) -> Iterator[None]:
    """Around imports: a package that is not installed is an error of one line, which names it and the extra that brings it.

    Args:
      extra: of pyproject.toml.
      purpose: what needs the package, e.g. 'training'.
      error: the class to raise.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or str(missing)).partition(".")[0]
        if package == "transkimmer_jax":
            raise
        raise error(f"{purpose} needs {package}, which is not installed: pip install 'transkimmer_jax[{extra}]'") from missing
