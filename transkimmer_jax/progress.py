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
    tqdm = Silent  # type: ignore[assignment, misc]


def predicting(texts: int, visible: bool) -> "tqdm | Silent":
    """The bar of answers to so many texts. One of tqdm's takes time even where nobody sees it."""
    return tqdm(total=texts, desc="predicting", unit=" texts", leave=False) if visible else Silent()


__all__ = ["predicting", "tqdm"]
