"""A tiny skimming model folder, with all that training leaves in one, made without jax: what is forked later has not touched a device."""

import json
import pathlib

import numpy as np
from checkpoints.handmade import CONFIG, random_tensors
from safetensors.numpy import save_file

from transkimmer_jax.checkpoints import folders
from transkimmer_jax.inference.calibration import CALIBRATION_FILE, Calibration

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "good", "bad", "film", "##s", "the", "is"]
TINY = CONFIG | {
    "architectures": ["TranskimmerForSequenceClassification"],
    "model_type": "transkimmer",
    "vocab_size": 60,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "id2label": {"0": "neg", "1": "pos"},
    "problem_type": "single_label_classification",
    "skim": {"predictor_size": 8, "initial_bias": 5.0, "temperature": 1.0, "threshold": 0.25, "attention_masking": "renormalized"},
    "task": {"name": "files", "max_length": 12, "text_columns": ["text"], "label_column": "label"},
}


def tensors() -> dict[str, np.ndarray]:
    """Random weights under the names that are written today."""
    original = random_tensors(TINY, predictor_size=8)
    return {name.replace("bert.encoder.skim_predictors.", "skim_predictors."): tensor for name, tensor in original.items()}


def write_model(folder: pathlib.Path) -> pathlib.Path:
    """Weights, config, tokenizer, calibration and digests in a new folder."""
    folder.mkdir(parents=True)
    save_file(tensors(), folder / "model.safetensors")
    lengths = np.arange(4, 12)
    kept = np.stack([lengths, lengths - 1, lengths - 3])
    texts = {
        "config.json": json.dumps(TINY, indent=2),
        "vocab.txt": "\n".join(WORDS) + "\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
        CALIBRATION_FILE: Calibration(lengths, kept, 0.25).to_json(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    folders.write_digests(folder)
    return folder
