"""Model folders as training leaves them."""

import json
import shutil

from checkpoints.handmade import random_tensors, write_checkpoint
from training import runs

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.data.pipeline import load_tokenizer


def make_tensors(config=runs.TINY):
    """Random weights, of which the margins lie around 0."""
    return random_tensors(config, predictor_size=16, seed=2)


def save_model(
    folder, tokenizer_folder, *, tensors=None, config=runs.TINY, label_names=("neg", "pos"), text_columns=("text",), max_length=12
):
    """Write such a model to a folder below `folder`, and return that."""
    first = write_checkpoint(folder / "random", make_tensors(config) if tensors is None else tensors, config)
    task = {"name": "files", "max_length": max_length, "text_columns": list(text_columns), "label_column": "label"}
    TranskimmerForSequenceClassification.from_pretrained(first, skim_overrides={"threshold": 0.25}).save_pretrained(
        folder / "model", tokenizer=load_tokenizer(tokenizer_folder), label_names=label_names, extra_config={"task": task}
    )
    return folder / "model"


def save_prompted(folder, model_folder, prompt):
    """Copy a model to `folder`, with a cross-encoder's default prompt, and return that."""
    shutil.copytree(model_folder, folder)
    settings = {"model_type": "CrossEncoder", "prompts": {"own": prompt}, "default_prompt_name": "own"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def save_dense(folder, model_folder, tokenizer_folder):
    """Write the dense model of the weights in `model_folder` to `folder`, and return that."""
    TranskimmerForSequenceClassification.from_pretrained(model_folder, dense=True).save_pretrained(
        folder, tokenizer=load_tokenizer(tokenizer_folder), label_names=("neg", "pos")
    )
    return folder
