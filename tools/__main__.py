"""python -m tools COMMAND: measurements and TPU programs, for makers of this project."""

import argparse
import sys

from tools import aot, benchmark, load
from transkimmer_jax import console, termination


def main(arguments: list[str]) -> None:
    """Parse `arguments` and run the command they name."""
    parser = argparse.ArgumentParser(prog="python -m tools", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (benchmark, load, aot):
        command.add(commands)
    parsed, rest = parser.parse_known_args(arguments)
    if getattr(parsed, "takes_overrides", False):
        parsed.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.arguments = arguments
    with termination.explained(lambda: "the same command starts again"):
        parsed.command(parsed)


if __name__ == "__main__":
    console.leave(console.run(main, sys.argv[1:]))
