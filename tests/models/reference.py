"""Transkimmer's inference (docs/design.md, section 1) in plain NumPy, one example at a time, in float64.

Skimmed tokens are really deleted from the arrays: there is no mask anywhere. It shares no line with the package, so
agreement means that masked computation equals removal.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """What the network says of one example of n tokens.

    logits [labels], None of a network without a sequence classifier; keep [layers, n] bool, cumulative; margin [layers, n], NaN where the
    token was already gone;
    hidden [n, H], each token as of the last layer it was kept in.
    """

    logits: np.ndarray | None
    keep: np.ndarray
    margin: np.ndarray
    hidden: np.ndarray


def transkimmer(
    tensors: dict[str, np.ndarray],
    config: dict,
    input_ids: np.ndarray,
    token_type_ids: np.ndarray | None = None,
    *,
    threshold: float = 0.0,
    decisions: np.ndarray | None = None,
    pinned: np.ndarray | None = None,
) -> Example:
    """Run one example.

    Args:
      tensors: Hugging Face's names, e.g. `bert.encoder.layer.0.attention.self.query.weight`.
      config: the parsed `config.json`.
      input_ids, token_type_ids: [n], real tokens only.
      threshold: a token stays where its margin exceeds this.
      decisions: [layers, n] bool, keep decisions that replace the predictors'.
      pinned: [n] bool, tokens that stay whatever is decided.
    """
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]

    def linear(name, x):
        return x @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def embedding(table, rows):
        return tensors[f"bert.embeddings.{table}_embeddings.weight"].astype(np.float64)[rows]

    length, layers = len(input_ids), config["num_hidden_layers"]
    types = np.zeros(length, int) if token_type_ids is None else token_type_ids
    x = norm(
        "bert.embeddings.LayerNorm",
        embedding("word", input_ids) + embedding("position", np.arange(length)) + embedding("token_type", types),
    )
    alive = np.arange(length)
    final, keep, margins = x.copy(), np.zeros((layers, length), bool), np.full((layers, length), np.nan)
    for layer in range(layers):
        predictor = f"bert.encoder.skim_predictors.{layer}.predictor"
        features = _gelu(norm(f"{predictor}.2", linear(f"{predictor}.1", norm(f"{predictor}.0", x))))
        decision = linear(f"{predictor}.4", features)
        margins[layer, alive] = decision[:, 1] - decision[:, 0]
        stays = margins[layer, alive] > threshold if decisions is None else decisions[layer, alive]
        stays = stays | (alive == 0) | (False if pinned is None else pinned[alive])
        x, alive = x[stays], alive[stays]
        keep[layer, alive] = True

        path = f"bert.encoder.layer.{layer}"
        query, key, value = (
            linear(f"{path}.attention.self.{part}", x).reshape(len(alive), heads, -1).swapaxes(0, 1) for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (weights / weights.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(x.shape)
        x = norm(f"{path}.attention.output.LayerNorm", x + linear(f"{path}.attention.output.dense", attended))
        x = norm(f"{path}.output.LayerNorm", x + linear(f"{path}.output.dense", _gelu(linear(f"{path}.intermediate.dense", x))))
        final[alive] = x
    logits = linear("classifier", np.tanh(linear("bert.pooler.dense", final[0]))) if "bert.pooler.dense.weight" in tensors else None
    return Example(logits, keep, margins, final)


def head_answers(head: str, tensors: dict[str, np.ndarray], hidden: np.ndarray, pooling) -> dict[str, np.ndarray]:
    """What the other heads than a sequence classifier say of an example, by name, from the final states [n, H] of its tokens."""
    if head == "sentence_embedding":
        vector = hidden.sum(axis=0) / len(hidden) if pooling.mode == "mean" else hidden[0]
        return {"sentence_embedding": vector / math.sqrt((vector**2).sum()) if pooling.normalize else vector}
    name = {"token_classification": "classifier", "question_answering": "qa_outputs"}[head]
    logits = hidden @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"]
    return {"logits": logits} if head == "token_classification" else {"start_logits": logits[:, 0], "end_logits": logits[:, 1]}


def referee_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A saved model's tensors under the names that the referee knows: predictors by the original's, an embedder's as all others."""

    def known(name: str) -> str:
        if name.startswith("skim_predictors."):
            return f"bert.encoder.{name}"
        return name if name.startswith(("bert.", "classifier.", "qa_outputs.")) else f"bert.{name}"

    return {known(name): tensor for name, tensor in tensors.items()}


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def relative_error(actual, expected, *, at_least: float = 0.0) -> float:
    """Largest absolute difference over the largest absolute value expected.

    at_least: the scale of the sums that the values come from, where a few of them may all cancel to almost nothing.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), at_least))
