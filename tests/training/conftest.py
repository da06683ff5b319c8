"""What all runs in miniature share: a checkpoint, files to train on, and programs that are built quickly and once."""

import jax
import optax
import pytest
from training import runs

from transkimmer_jax.training import step


@pytest.fixture(scope="module", autouse=True)
def build_quickly(quickly_built_programs):
    """For every test here."""


@pytest.fixture(scope="module", autouse=True)
def lenient_optax():
    """optax raises Python floats to integer powers, which strict promotion refuses; ours stays strict around it."""
    create_optimizer = step.create_optimizer

    def create(*arguments):
        optimizer = create_optimizer(*arguments)

        def update(*arguments):
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*arguments)

        return optax.GradientTransformation(optimizer.init, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "create_optimizer", create)
        yield


@pytest.fixture(scope="session")
def checkpoint(tokenizer_folder, tmp_path_factory):
    """A folder with random weights of the smallest BERT and a tokenizer."""
    return runs.write_model(tmp_path_factory.mktemp("checkpoint"), tokenizer_folder)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory):
    """A folder with train.jsonl and validation.jsonl: 'pos' where the text has the word 'good', 'neg' where it has 'bad'."""
    folder = tmp_path_factory.mktemp("reviews")
    runs.write_jsonl(folder / "train.jsonl", runs.make_reviews(160, seed=0))
    runs.write_jsonl(folder / "validation.jsonl", runs.make_reviews(40, seed=1))
    return folder


@pytest.fixture(scope="session")
def config(checkpoint, reviews):
    """Everything on: dropout, sampled gates, the budget's controller; several checkpoints between evaluations."""
    return runs.make_config(checkpoint, reviews / "train.jsonl", reviews / "validation.jsonl")
