"""Hand-made checkpoints in Hugging Face's names, built without the package that is under test."""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "id2label": {"0": "no", "1": "yes", "2": "maybe"},
}


def tensor_shapes(config: dict, predictor_size: int | None = None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a BertForSequenceClassification, with skim predictors of width `predictor_size`."""
    hidden, inner, labels = config["hidden_size"], config["intermediate_size"], len(config["id2label"])
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name, inputs, outputs):
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name, size):
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    for table, rows in (("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size")):
        shapes[f"bert.embeddings.{table}_embeddings.weight"] = (config[rows], hidden)
    norm("bert.embeddings.LayerNorm", hidden)
    for layer in range(config["num_hidden_layers"]):
        path = f"bert.encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{path}.attention.{part}", hidden, hidden)
        norm(f"{path}.attention.output.LayerNorm", hidden)
        linear(f"{path}.intermediate.dense", hidden, inner)
        linear(f"{path}.output.dense", inner, hidden)
        norm(f"{path}.output.LayerNorm", hidden)
        if predictor_size is not None:
            predictor = f"bert.encoder.skim_predictors.{layer}.predictor"
            norm(f"{predictor}.0", hidden)
            linear(f"{predictor}.1", hidden, predictor_size)
            norm(f"{predictor}.2", predictor_size)
            linear(f"{predictor}.4", predictor_size, 2)
    linear("bert.pooler.dense", hidden, hidden)
    linear("classifier", hidden, labels)
    return shapes


def random_tensors(config: dict = CONFIG, predictor_size: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Values at which everything matters: activations of order 1, margins spread around 0, LayerNorms away from identity."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config, predictor_size).items():
        values = rng.standard_normal(shape)
        if "LayerNorm.weight" in name or name.endswith(("predictor.0.weight", "predictor.2.weight")):
            values = 1 + 0.2 * values
        elif len(shape) == 1:
            values = 0.2 * values
        elif "embeddings" not in name:
            values = values / np.sqrt(shape[1])
        if name.endswith("predictor.4.weight"):
            # GELU's outputs have a common mean; without it in the product, margins spread around 0 in every layer.
            values = 3 * (values - values.mean(axis=1, keepdims=True))
        elif name.endswith("predictor.4.bias"):
            values += [-0.5, 0.5]
        tensors[name] = values.astype(np.float32)
    return tensors


def write_checkpoint(folder: pathlib.Path, tensors: dict[str, np.ndarray], config: dict = CONFIG) -> pathlib.Path:
    """`config.json` and `model.safetensors` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder
