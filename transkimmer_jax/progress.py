"""Progress bars: tqdm's where it is installed, none elsewhere (a benchmark machine needs only jax, flax and numpy)."""

from collections.abc import Iterable
from typing import Any


class Silent:
    """What this package uses of tqdm, without a bar."""

    def __init__(self, iterable: Iterable | None = None, **options: Any):
        self._iterable = iterable

    def __iter__(self):
        return iter(self._iterable or ())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    write = staticmethod(print)

    def update(self, count: int = 1) -> None:
        """Does nothing."""

    def set_postfix(self, *values: Any, **named: Any) -> None:
        """Does nothing."""


try:
    from tqdm import tqdm
except ImportError:
    tqdm = Silent  # type: ignore[misc, assignment]


def bar(visible: bool, **options: Any) -> Any:
    """A bar with tqdm's options, or none. tqdm's own invisible one takes a tenth of what a short text does."""
    return tqdm(**options) if visible else Silent()


__all__ = ["bar", "tqdm"]
