"""A tiny random model of every backbone, as transformers writes it. Sizes are odd, so that no two can be mistaken for each other."""

import functools
import pathlib
import tempfile
from typing import Any

import numpy as np
import pytest
import transformers

from transkimmer_jax import TranskimmerForSequenceClassification

# Weights are those of PyTorch models: without PyTorch, a file of tests that imports this one is skipped.
torch = pytest.importorskip("torch")

VOCABULARY, TOKENS, LABELS, LAYERS = 90, 37, 3, 3
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 36, "num_hidden_layers": LAYERS, "num_attention_heads": 3, "intermediate_size": 52,
    "num_labels": LABELS, "initializer_range": 0.3, "pad_token_id": 0,
}  # fmt: skip
_BEHIND_PADDING = {"max_position_embeddings": TOKENS + 2, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
_LOCAL = {
    "max_position_embeddings": TOKENS, "local_attention": 7, "bos_token_id": None, "eos_token_id": None, "cls_token_id": None,
    "sep_token_id": None,
}  # fmt: skip
_DISENTANGLED = {
    "max_position_embeddings": TOKENS, "relative_attention": True, "pos_att_type": "p2c|c2p", "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False, "position_buckets": 8,
}  # fmt: skip
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (transformers.BertConfig, {"max_position_embeddings": TOKENS}),
    # The tables of the first are narrower than states.
    "electra": (transformers.ElectraConfig, {"max_position_embeddings": TOKENS, "embedding_size": 20}),
    "electra of one width": (transformers.ElectraConfig, {"max_position_embeddings": TOKENS, "embedding_size": 36}),
    "roberta": (transformers.RobertaConfig, _BEHIND_PADDING),
    "xlm-roberta": (transformers.XLMRobertaConfig, _BEHIND_PADDING | {"pad_token_id": 3, "max_position_embeddings": TOKENS + 4}),
    "camembert": (transformers.CamembertConfig, _BEHIND_PADDING),
    "distilbert": (transformers.DistilBertConfig, {"max_position_embeddings": TOKENS, "hidden_dim": 52}),
    "mpnet": (transformers.MPNetConfig, {"max_position_embeddings": TOKENS + 2, "pad_token_id": 1, "layer_norm_eps": 1e-5}),
    # Of texts of TOKENS tokens most distances share rows, and of the second one's the furthest share the last.
    "deberta-v2": (transformers.DebertaV2Config, _DISENTANGLED),
    "deberta-v2 of far texts": (transformers.DebertaV2Config, _DISENTANGLED | {"position_buckets": 11, "max_relative_positions": 20}),
    # The last layer of the first is local, that of the second is not. In texts of TOKENS tokens, most are out of sight of each other.
    "modernbert": (transformers.ModernBertConfig, _LOCAL),
    "modernbert with biases": (
        transformers.ModernBertConfig,
        _LOCAL | {
            "global_attn_every_n_layers": 2, "attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True,
            "rope_parameters": {"full_attention": {"rope_theta": 300.0}, "sliding_attention": {"rope_theta": 20.0}},
        },
    ),
    "modernbert by its mean": (transformers.ModernBertConfig, _LOCAL | {"classifier_pooling": "mean", "num_hidden_layers": 4}),
}  # fmt: skip
BACKBONES = tuple(name for name in CONFIGS if " " not in name)


@functools.cache
def torch_model(backbone: str):
    """transformers' own model, in evaluation."""
    config_class, changes = CONFIGS[backbone]
    sizes = _SIZES if "hidden_dim" not in changes else {name: size for name, size in _SIZES.items() if name != "intermediate_size"}
    torch.manual_seed(0)
    return with_random_vectors(transformers.AutoModelForSequenceClassification.from_config(config_class(**sizes | changes)))


def with_random_vectors(model):
    """In evaluation. Biases and LayerNorms are born as zeros and ones, which would hide a swapped name."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@functools.cache
def folder(backbone: str) -> pathlib.Path:
    """What its `save_pretrained` writes."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="transkimmer-test-backbone-"))
    torch_model(backbone).save_pretrained(place)
    return place


@functools.cache
def dense(backbone: str) -> TranskimmerForSequenceClassification:
    """Ours, of that folder."""
    return TranskimmerForSequenceClassification.from_pretrained(folder(backbone), dense=True)


@functools.cache
def skimming(backbone: str) -> TranskimmerForSequenceClassification:
    """The same with predictors whose margins spread over several units around 0, so that every threshold skims."""
    model = TranskimmerForSequenceClassification.from_pretrained(
        folder(backbone), dense=False, skim_overrides={"initial_bias": 0.0, "predictor_size": 20}
    )
    rng = np.random.default_rng(0)
    for predictor in model.encoder.predictors:
        for linear in (predictor.dense, predictor.decision):
            shape = linear.kernel.shape
            linear.kernel[...] = (rng.standard_normal(shape) * (3 if shape[-1] == 2 else 1) / np.sqrt(shape[0])).astype(np.float32)
    return model
