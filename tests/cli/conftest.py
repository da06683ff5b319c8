"""What tests of the command line share. Programs are built quickly for every one."""

import pytest
from cli.saved import save_model

from transkimmer_jax import cli, console


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module")
def model_folder(tokenizer_folder, tmp_path_factory):
    """A model as training leaves it, with random weights and margins around 0."""
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_folder)


@pytest.fixture
def refused(capsys):
    """What a command says after 'error: ', and it says nothing else."""

    def run(*arguments):
        capsys.readouterr()
        assert console.run(cli.main, list(map(str, arguments))) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured
        return captured.err.removeprefix("error: ").rstrip("\n")

    return run
