import sys

from transkimmer_jax import console
from transkimmer_jax.cli import main


def entry() -> None:
    """The `transkimmer` command."""
    console.leave(console.run(main, sys.argv[1:]))


if __name__ == "__main__":
    entry()
