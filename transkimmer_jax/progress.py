"""Progress bars: tqdm's where it is installed, none elsewhere (a benchmark machine needs only jax, flax and numpy)."""

from collections.abc import Iterable
from typing import Any

try:
    from tqdm import tqdm
except ImportError:

    class tqdm:  # type: ignore[no-redef]
        """What this package uses of tqdm, silent."""

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


__all__ = ["tqdm"]
