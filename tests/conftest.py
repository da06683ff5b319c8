"""Strict numerics for every test: no silent dtype or rank promotion, and real assets where they are at hand."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def real_checkpoint(name: str) -> pathlib.Path:
    """The folder of a real pretrained checkpoint below TRANSKIMMER_TEST_MODELS, or a skip that says how to get it."""
    root = os.environ.get("TRANSKIMMER_TEST_MODELS")
    if not root or not (pathlib.Path(root) / name / "config.json").is_file():
        pytest.skip(f"needs real weights: set TRANSKIMMER_TEST_MODELS to a folder that holds {name}/")
    return pathlib.Path(root) / name


@pytest.fixture(scope="session")
def minilm():
    """Real pretrained BERT weights, 6 layers, H=384."""
    return real_checkpoint("minilm-6l")


@pytest.fixture(scope="session")
def bert_tiny():
    """Real pretrained BERT weights under old parameter names, 2 layers, H=128, with a masked-LM head."""
    return real_checkpoint("bert-tiny")
