"""Laws of --help: every flag is in it, and it comes at once."""

import subprocess
import sys

import pytest
from training import runs

from transkimmer_jax import cli

OPTIONS = {
    "train": ("config", "workdir", "coordinator", "num-processes", "process-id", "peer-timeout"),
    "evaluate": (
        "model", "task", "data", "data-dir", "text-columns", "label-column", "threshold", "max-length", "mode", "batch-size", "examples",
        "predictions", "json",
    ),
    "predict": (
        "model", "input", "output", "output-dir", "overwrite", "process-id", "num-processes", "format", "text-columns", "copy",
        "prefix", "threshold", "max-length", "batch-tokens", "runtime", "provider", "precision", "quiet",
    ),
    "serve": (
        "model", "host", "port", "api-key", "threshold", "threshold-range", "auto-truncate", "max-concurrent-requests", "max-batch-tokens",
        "max-client-batch-size", "payload-limit", "max-length", "runtime", "provider", "precision",
    ),
    "export": ("model", "output", "platforms", "lengths", "threshold", "batch-tokens"),
    "sweep": ("model", "task", "data", "output", "points", "dense", "budget", "tolerance", "guarantee", "risk", "apply"),
}  # fmt: skip


def help_of(capsys, main, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_names_the_commands(capsys):
    printed = help_of(capsys, cli.main)
    assert all(command in printed for command in OPTIONS)


def test_help_of_training(capsys):
    printed = help_of(capsys, runs.train_main())
    for option in ("--config CONFIG", "--workdir", "--config.skim.target=0.4", "--config.train.seed=0"):
        assert option in printed


def test_every_flag_is_explained():
    """Of every command; those of files in a table below it may go without."""
    for command, parser in cli.parsers()[1].items():
        unexplained = [action.option_strings for action in parser._actions if not action.help and not action.metavar]
        assert unexplained == [], command


@pytest.mark.parametrize("command", cli.parsers()[1])
def test_help_answers_at_once(command):
    """`python -m transkimmer_jax COMMAND --help`, without loading what only the work needs."""
    code = f"""
import runpy, sys
sys.argv = ["transkimmer_jax", {command!r}, "--help"]
try:
    runpy.run_module("transkimmer_jax", run_name="__main__")
finally:
    heavy = {{
        "tensorflow_datasets", "transformers", "orbax", "grain", "scipy", "sklearn", "matplotlib", "transkimmer_jax.inference",
        "tools.aot_workload",
    }}
    print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=True)
    for option in OPTIONS.get(command, ()):
        assert f"--{option} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
