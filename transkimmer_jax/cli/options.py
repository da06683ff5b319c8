"""Options that several commands share."""

import math
from collections.abc import Callable
from typing import Any

import click

from transkimmer_jax.checkpoints.thresholds import is_finite_number
from transkimmer_jax.config import FIELDS, parse_overrides
from transkimmer_jax.runtime_names import PRECISIONS, PROVIDERS, RUNTIMES
from transkimmer_jax.validation import suggestion

_FIELD = "--config."
POOLING = click.Choice(("mean", "cls"))
LENGTH = click.IntRange(min=3)  # tokens, of which the tokenizer adds two
COUNT = click.IntRange(min=1)


class Range(click.FloatRange):
    """A number in a range, and not NaN, which click's own type takes for one."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        number = super().convert(value, parameter, context)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", parameter, context)
        return number


class Command(click.Command):
    """A command whose options with `multiple=True` take several values after one flag: `--budgets 0.5 0.3`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        several = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        spread: list[str] = []
        flag, has_value = "", False
        for argument in args:
            if argument.startswith("-") and argument != "-":
                name, _, value = argument.partition("=")
                flag, has_value = name if name in several else "", bool(value)
                spread.append(argument)
            else:
                spread += [flag, argument] if flag and has_value else [argument]
                has_value = True
        return super().parse_args(context, spread)


class ConfigCommand(Command):
    """A command that takes fields of a config: `--config.train.steps=100`. `describe` lists them for `--help`."""

    def __init__(self, *, describe: Callable[[], str], **options: Any):
        super().__init__(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, **options)
        self._describe = describe

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nFields, for --config.SECTION.FIELD=VALUE, with their defaults:\n\n" + self._describe() + "\n")


def overrides(context: click.Context) -> dict[str, Any]:
    """The fields of the config that a command line sets, by dotted name.

    Raises:
      click.UsageError: an option that neither the command nor the config has.
    """
    unknown = next((argument for argument in context.args if argument.startswith("-") and not argument.startswith(_FIELD)), None)
    if unknown is not None:
        name = unknown.partition("=")[0]
        flags = {flag: flag for option in context.command.params for flag in option.opts}
        meant = {"--" + field.rpartition(".")[2].replace("_", "-"): _FIELD + field for field in FIELDS} | flags
        said = suggestion(name, meant)
        near = said.split("'")[1] if said else None
        raise click.UsageError(f"No such option: {name}" + (f" Did you mean {meant[near]}?" if near else ""))
    return parse_overrides(context.args)


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not is_finite_number(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


def threshold(default: str = "the model's", flag: str = "--threshold") -> Callable:
    """The option `--threshold`."""
    meaning = f"Share of FLOPs to save, of a model for several budgets; else the least margin of a kept token (default: {default})."
    return click.option(flag, type=float, callback=_finite, metavar="T", help=meaning)


def runtime(command: Callable) -> Callable:
    """The options that say how an engine computes: `--runtime`, `--provider`, `--precision`."""
    for option in (
        click.option("--precision", type=click.Choice(PRECISIONS), help="int8 with onnxruntime, bfloat16 with openvino and jax."),
        click.option("--provider", type=click.Choice(PROVIDERS), help="Runtime of the ONNX graph (default: onnxruntime)."),
        click.option("--runtime", type=click.Choice(RUNTIMES), help="Default: onnx on a CPU, jax on a GPU or TPU."),
    ):
        command = option(command)
    return command


def model(command: Callable) -> Callable:
    """The option `--model`."""
    return click.option("--model", required=True, help="Checkpoint folder or hub id, e.g. runs/quickstart/model.")(command)


def data_dir(command: Callable) -> Callable:
    """The option `--data-dir`."""
    return click.option("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets).")(command)
