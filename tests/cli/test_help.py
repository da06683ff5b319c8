"""Laws of --help and of the command line: every option is explained, help comes at once, a mistake is one line."""

import subprocess
import sys

import pytest
from training import runs

from transkimmer_jax import cli

COMMANDS = pytest.mark.parametrize("name", cli.COMMANDS)


def command(name):
    return cli.program.get_command(None, name)


def test_the_commands_have_few_options():
    options = {name: command(name).params for name in cli.COMMANDS}
    assert len(options) == 8 and sum(map(len, options.values())) <= 125


@COMMANDS
def test_every_option_is_explained(name):
    unexplained = [option.opts for option in command(name).params if not option.help and not option.show_default]
    assert unexplained == []


@COMMANDS
def test_help_answers_at_once(name):
    """Without loading what only the work needs."""
    code = f"""
import runpy, sys
sys.argv = ["transkimmer_jax", {name!r}, "--help"]
try:
    runpy.run_module("transkimmer_jax", run_name="__main__")
finally:
    heavy = {{"jax", "tensorflow_datasets", "transformers", "orbax", "grain", "scipy", "sklearn", "matplotlib"}}
    print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.TRAIN_PY.parent, check=True)
    assert all(f"{option.opts[0]} " in done.stdout for option in command(name).params)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing command"),
        (["sweep"], "No such command 'sweep'"),
        (["evaluate", "--modle", "m", "--data", "d"], "--model"),
        (["evaluate", "--data", "d"], "Missing option '--model'"),
        (["evaluate", "--model", "m"], "give either --task or --data"),
        (["evaluate", "--model", "m", "--task", "t", "--data", "d"], "give either --task or --data"),
        (["evaluate", "--model", "m", "--data", "d", "--max-length", "2"], "2 is not in the range x>=3"),
        (["evaluate", "--model", "m", "--data", "d", "--threshold", "nan"], "nan is not a finite number"),
        (["evaluate", "--model", "m", "--data", "d", "--threshold=1e39"], "is not a finite number"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--tolerance=nan"], "nan is not a number"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--risk=all"], "'all' is not one of"),
        (["evaluate", "--model", "m", "--data", "d", "--budget", "0.5"], "--budget needs --curve"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--budget", "1.5"], "'--budget': 1.5 is not in the range 0<x<=1"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--points", "2"], "'--points'"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--guarantee", "1"], "'--guarantee'"),
        (["evaluate", "--model", "m", "--data", "d", "--curve", "c", "--json", "j"], "--curve goes without"),
        (["evaluate", "--model", "m", "--queries", "q"], "give these three"),
        (["predict", "--model", "m", "--inptu=a.jsonl"], "--input"),
        (["predict", "--model", "m", "--precision", "int4"], "'int4' is not one of"),
        (["export", "--model", "m", "--lenghts", "16", "24"], "--lengths"),
        (["export", "--model", "m", "--output", "o", "--precision", "int8"], "--precision is for --format onnx, not jax"),
        (["report", "--output", "o"], "give either --model or --run"),
        (["report", "--model", "m", "--output", "o", "--task", "t", "--budgets", "0.5", "2"], "2.0 is not in the range 0<x<=1"),
        (["distil", "--teacher", "t", "--texts", "a", "--output", "o", "--layers", "2", "--whole"], "--layers and --whole"),
        (["distil", "--teacher", "t", "--texts", "a", "--otput", "o"], "--output"),
        (["train", "--config", "c.py", "--worlddir=w"], "Did you mean --workdir?"),
        (["train", "--config", "configs/quickstart.py", "--learning-rate=1"], "Did you mean --config.optimizer.learning_rate?"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, arguments, said):
    assert said in refused(*arguments)
