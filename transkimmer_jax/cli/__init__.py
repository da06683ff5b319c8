"""transkimmer COMMAND: train a model, evaluate it, and serve it."""

import argparse

from transkimmer_jax import termination
from transkimmer_jax.cli import aot, benchmark, evaluate, export, predict, sweep, train


def main(arguments: list[str]) -> None:
    """Parse `arguments` and run the command they name."""
    parser = argparse.ArgumentParser(prog="transkimmer", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, evaluate, predict, benchmark, export, sweep, aot):
        command.add(commands)
    parsed, rest = parser.parse_known_args(arguments)
    if getattr(parsed, "takes_overrides", False):
        parsed.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.arguments = arguments
    with termination.explained(lambda: "the same command starts again"):
        parsed.command(parsed)
