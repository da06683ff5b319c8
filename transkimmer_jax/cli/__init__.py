"""Train a skimming model, evaluate it, and serve it."""

import importlib

import click

from transkimmer_jax import termination
from transkimmer_jax.errors import ConfigError

COMMANDS = ("train", "distil", "predict", "evaluate", "report", "export", "convert", "serve")


class _Commands(click.Group):
    """Imports a command's module when it is asked for, so that `--help` answers at once."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"transkimmer_jax.cli.{name}").command


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
program = _Commands("transkimmer", help=__doc__, no_args_is_help=False, context_settings=_SETTINGS)


def main(arguments: list[str]) -> None:
    """Run the command that `arguments` name.

    Raises:
      ConfigError: an unknown command or option, or a value out of range.
      SystemExit: `--help` was printed.
    """
    with termination.explained(lambda: "the same command starts again"):
        try:
            with program.make_context("transkimmer", list(arguments), obj=list(arguments)) as context:
                program.invoke(context)
        except click.exceptions.Exit as done:
            raise SystemExit(done.exit_code) from done
        except click.UsageError as error:
            raise ConfigError(error.format_message()) from error
