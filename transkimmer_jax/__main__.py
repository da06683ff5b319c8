import sys

from transkimmer_jax import console
from transkimmer_jax.cli import main


def entry() -> int:
    """The `transkimmer` command."""
    return console.run(main, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
