"""Train a Transkimmer: python train.py --config configs/glue_sst2.py [--workdir DIR] [--config.SECTION.FIELD=VALUE ...]

The same as `transkimmer train`, for a checkout that is not installed.
"""

import sys

from transkimmer_jax import cli, console


def main(arguments: list[str]) -> None:
    """Run `transkimmer train` with these arguments."""
    cli.main(["train", *arguments])


if __name__ == "__main__":
    console.leave(console.run(main, sys.argv[1:]))
