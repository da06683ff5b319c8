import sys

from transkimmer_jax import console
from transkimmer_jax.cli import main
from transkimmer_jax.memory import keep_freed_memory


def entry() -> None:
    """The `transkimmer` command."""
    keep_freed_memory()
    console.leave(console.run(main, sys.argv[1:]))


if __name__ == "__main__":
    entry()
