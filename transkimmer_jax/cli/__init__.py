"""transkimmer COMMAND: train a model, evaluate it, and serve it."""

import argparse

from transkimmer_jax import flags, termination
from transkimmer_jax.cli import convert, distil, evaluate, export, predict, report, retrieve, serve, sweep, train
from transkimmer_jax.config import FIELDS


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """That of the program, and those of its commands by name."""
    parser = argparse.ArgumentParser(prog="transkimmer", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, distil, evaluate, retrieve, predict, serve, report, convert, export, sweep):
        command.add(commands)
    return parser, commands.choices


def main(arguments: list[str]) -> None:
    """Parse `arguments` and run the command they name."""
    parser, commands = parsers()
    if arguments and arguments[0] in commands:
        chosen = commands[arguments[0]]
        flags.require_known(chosen, arguments[1:], FIELDS if chosen.get_default("takes_overrides") else ())
    parsed, rest = parser.parse_known_args(arguments)
    if getattr(parsed, "takes_overrides", False):
        parsed.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.arguments = arguments
    with termination.explained(lambda: "the same command starts again"):
        parsed.command(parsed)
