"""Inference of the original Transkimmer (Guan et al., 2022) in NumPy, in float64: the attention of the paper's Eq. 4, over all tokens of a
padded batch, whatever has been skimmed.

Read off its source: `src/module/modeling_transkimer.py` and `modeling_transkimer_roberta.py` of github.com/ChandlerGuan/Transkimmer, at
a72eb9a. Its gates sample at evaluation, too (docs/design.md, section 9); here the likelier class is taken. It shares no line with the
package, and none with the referee of deleted tokens, which cannot compute Eq. 4.
"""

import math

import numpy as np

_PADDING_SCORE = -10000.0


def answers(tensors: dict[str, np.ndarray], config: dict, input_ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> dict:
    """Of a padded batch [B, S]: 'logits', or 'start_logits' and 'end_logits'; 'keep' [layers, B, S] and 'margin' of the same shape.

    tensors: by the names of the original's checkpoints. config: the parsed `config.json`.
    """
    prefix = config["model_type"]
    heads = config["num_attention_heads"]

    def linear(name, x):
        return x @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"].astype(np.float64)

    def norm(name, x, epsilon):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def split(x):
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    epsilon = config["layer_norm_eps"]
    places = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if prefix == "roberta":  # counted from behind the padding's id, which is the position of padding
        places = mask.cumsum(axis=1) * mask + config["pad_token_id"]
        types = np.zeros_like(types)
    tables = {"word": input_ids, "position": places, "token_type": types}
    x = sum(tensors[f"{prefix}.embeddings.{table}_embeddings.weight"].astype(np.float64)[rows] for table, rows in tables.items())
    x = norm(f"{prefix}.embeddings.LayerNorm", x, epsilon)
    forwarded = x.copy()
    keeps: list[np.ndarray] = []
    margins: list[np.ndarray] = []
    for layer in range(config["num_hidden_layers"]):
        predictor = f"{prefix}.encoder.skim_predictors.{layer}.predictor"
        features = norm(f"{predictor}.2", linear(f"{predictor}.1", norm(f"{predictor}.0", x, 1e-5)), 1e-5)  # nn.LayerNorm's own
        skim, keep = np.moveaxis(linear(f"{predictor}.4", _gelu(features)), -1, 0)
        gate = (keep > skim).astype(np.float64)
        gate[:, 0] = 1
        keeps.append(gate * keeps[-1] if keeps else gate)
        margins.append(keep - skim)
        path = f"{prefix}.encoder.layer.{layer}"
        query, key, value = (split(linear(f"{path}.attention.self.{part}", x)) for part in ("query", "key", "value"))
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]) + _PADDING_SCORE * (1 - mask)[:, None, None, :]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True) * keeps[-1][:, None, None, :]
        attended = (weights @ value).transpose(0, 2, 1, 3).reshape(x.shape)
        x = norm(f"{path}.attention.output.LayerNorm", x + linear(f"{path}.attention.output.dense", attended), epsilon)
        inner = _gelu(linear(f"{path}.intermediate.dense", x))
        x = norm(f"{path}.output.LayerNorm", x + linear(f"{path}.output.dense", inner), epsilon)
        kept = keeps[-1][:, :, None]
        forwarded = forwarded * (1 - kept) + x * kept
    said = {"keep": np.stack(keeps) * mask, "margin": np.stack(margins)}
    if "qa_outputs.weight" in tensors:
        start, end = np.moveaxis(linear("qa_outputs", forwarded), -1, 0)
        return said | {"start_logits": start, "end_logits": end}
    pooler, classifier = ("classifier.dense", "classifier.out_proj") if prefix == "roberta" else ("bert.pooler.dense", "classifier")
    return said | {"logits": linear(classifier, np.tanh(linear(pooler, forwarded[:, 0])))}


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
