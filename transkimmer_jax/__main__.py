import sys

from transkimmer_jax import console
from transkimmer_jax.cli import main

if __name__ == "__main__":
    sys.exit(console.run(main, sys.argv[1:]))
