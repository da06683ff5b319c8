"""python -m transkimmer_jax COMMAND: what is done with a trained model."""

import argparse

from transkimmer_jax.cli import aot, benchmark, evaluate, export, predict, sweep


def main(arguments: list[str]) -> None:
    """Parse `arguments` and run the command they name."""
    parser = argparse.ArgumentParser(prog="python -m transkimmer_jax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (evaluate, predict, benchmark, export, sweep, aot):
        command.add(commands)
    parsed, rest = parser.parse_known_args(arguments)
    if getattr(parsed, "takes_overrides", False):
        parsed.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.command(parsed)
