"""A misspelt flag is one line with the flag that was meant, before argparse complains of the one that is missing."""

import argparse

import pytest
from training import runs

from transkimmer_jax import cli, console, flags
from transkimmer_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["evaluate", "--modle", "m", "--data", "d"], "--model"),
        (["evaluate", "--model", "m", "--data", "d", "--thresh", "0"], "--threshold"),
        (["predict", "--model", "m", "--inptu=a.jsonl"], "--input"),
        (["sweep", "--model", "m", "--data", "d", "--otput", "o"], "--output"),
        (["export", "--model", "m", "--lenghts", "16", "24"], "--lengths"),
    ],
)
def test_commands(capsys, arguments, meant):
    assert console.run(cli.main, arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith(f"; did you mean {meant!r}?\n") and said.err.startswith("error: unknown flag '--")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "meant"),
    [("--worlddir=w", "--workdir"), ("--confg=c", "--config"), ("--learning-rate=1", "--config.optimizer.learning_rate")],
)
def test_training(capsys, argument, meant):
    """A field's last name is enough to say which one was meant."""
    assert console.run(runs.train_main(), ["--config", "configs/quickstart.py", argument]) == 2
    assert capsys.readouterr().err == f"error: unknown flag {argument.partition('=')[0]!r}; did you mean {meant!r}?\n"


def test_what_is_known_passes():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("rest", nargs="*")
    flags.require_known(parser, ["--model=m", "-1", "text", "--help", "--", "--modle"])
    flags.require_known(parser, ["--config.train.epoch=1"], fields=["train.epochs"])
    for arguments, fields in ((["--config.train.epochs=1"], ()), (["--zzz"], ("train.epochs",))):
        with pytest.raises(ConfigError, match=r"flags: --help, --model$"):
            flags.require_known(parser, arguments, fields)
