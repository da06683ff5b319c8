"""Misspelt flags: refused before anything else is said of a command line, with the flag that was probably meant."""

import argparse
import difflib
from collections.abc import Sequence

from transkimmer_jax.errors import ConfigError

_FIELD = "--config."


def require_known(parser: argparse.ArgumentParser, arguments: Sequence[str], fields: Sequence[str] = ()) -> None:
    """Refuse the first of `arguments` that is a long flag which `parser` does not declare.

    Argparse alone would complain of the required flag that was misspelt, and never say which one was meant.

    Args:
      parser: of the command whose `arguments` these are.
      fields: of the config, e.g. 'train.steps', where the command takes '--config.train.steps=1'. What follows '--config.' is not
        checked here.

    Raises:
      ConfigError: such a flag, with the nearest one that there is.
    """
    declared = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in declared and not (fields and name.startswith(_FIELD)):
            raise ConfigError(f"unknown flag {name!r}; {_suggestion(name, declared, fields)}")


def _suggestion(name: str, declared: Sequence[str], fields: Sequence[str]) -> str:
    # '--epochs' stands for '--config.train.epochs' here.
    meant = {flag: flag for flag in declared} | {"--" + field.rpartition(".")[2]: _FIELD + field for field in fields}
    near = difflib.get_close_matches(name, meant, cutoff=0.6) or [flag for flag in meant if flag.startswith(name)]
    # Two letters in the wrong order are one slip, which difflib counts as two: '--modle' is '--model' rather than '--mode'.
    near.sort(key=lambda flag: sorted(flag) != sorted(name))
    return f"did you mean {meant[near[0]]!r}?" if near else f"flags: {', '.join(declared)}"
