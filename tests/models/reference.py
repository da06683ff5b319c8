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
    token was already gone and where the layer has no predictor;
    hidden [n, H], each token as of the last layer it was kept in, behind the map of the layer that skimmed it where there is one.
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
      tensors: Hugging Face's names, e.g. `bert.encoder.layer.0.attention.self.query.weight`, or another backbone's.
      config: the parsed `config.json`. Its `backbone`, or else `model_type`, says whose.
      input_ids, token_type_ids: [n], real tokens only.
      threshold: a token stays where its margin exceeds this.
      decisions: [layers, n] bool, keep decisions that replace the predictors'.
      pinned: [n] bool, tokens that stay whatever is decided.
    """
    backbone = config.get("backbone", config["model_type"])
    tensors = {_as_bert(name, backbone): tensor for name, tensor in tensors.items()}
    epsilon, heads = config.get("norm_eps") or config.get("layer_norm_eps", 1e-12), config.get("num_attention_heads") or config["n_heads"]
    # Predictors in a file whose config says nothing of them are the original's, with norms as PyTorch makes them.
    of_predictors = (config["skim"].get("norm_eps") or epsilon) if "skim" in config else 1e-5
    behind_padding = (config.get("pad_token_id") or 0) + 1
    offset = {"mpnet": 2}.get(backbone, behind_padding if _AS_BERT.get(backbone) is _AS_BERT["roberta"] else 0)

    def linear(name, x):
        return x @ tensors[f"{name}.weight"].astype(np.float64).T + tensors.get(f"{name}.bias", 0)

    def norm(name, x, epsilon=epsilon):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled * tensors[f"{name}.weight"] + tensors.get(f"{name}.bias", 0)

    def embedding(table, rows):
        return tensors[f"bert.embeddings.{table}_embeddings.weight"].astype(np.float64)[rows]

    length, layers = len(input_ids), config.get("num_hidden_layers") or config["n_layers"]
    modern, disentangled = backbone == "modernbert", backbone == "deberta-v2"
    x = embedding("word", input_ids) + (0 if modern or disentangled else embedding("position", np.arange(length) + offset))
    if "bert.embeddings.token_type_embeddings.weight" in tensors:
        types = np.zeros(length, int) if token_type_ids is None else token_type_ids
        x = x + embedding("token_type", np.minimum(types, config["type_vocab_size"] - 1))
    x = norm("bert.embeddings.LayerNorm", x)
    x = linear("bert.embeddings_project", x) if "bert.embeddings_project.weight" in tensors else x
    alive = np.arange(length)
    final, keep, margins = x.copy(), np.zeros((layers, length), bool), np.full((layers, length), np.nan)
    for layer in range(layers):
        predictor = f"bert.encoder.skim_predictors.{layer}.predictor"
        if f"{predictor}.1.weight" in tensors:
            wide = linear(f"{predictor}.1", norm(f"{predictor}.0", x, of_predictors))
            features = _gelu(norm(f"{predictor}.2", wide, of_predictors))
            decision = linear(f"{predictor}.4", features)
            margins[layer, alive] = decision[:, 1] - decision[:, 0]
            knots = tensors.get(f"bert.encoder.skim_predictors.{layer}.levels.knots")
            if knots is not None:
                margins[layer, alive] = _on_scale(margins[layer, alive], knots.astype(np.float64), 1 - np.array(config["skim"]["levels"]))
            stays = margins[layer, alive] > threshold if decisions is None else decisions[layer, alive]
            stays = stays | (alive == 0) | (False if pinned is None else pinned[alive])
            x, alive = x[stays], alive[stays]
        keep[layer, alive] = True

        path = f"bert.encoder.layer.{layer}"
        if modern:
            entering = x if layer == 0 else norm(f"{path}.attention.output.LayerNorm", x)
            projected = np.split(linear(f"{path}.attn.Wqkv", entering), 3, axis=1)
        else:
            projected = [linear(f"{path}.attention.self.{part}", x) for part in ("query", "key", "value")]
        query, key, value = (part.reshape(len(alive), heads, -1).swapaxes(0, 1) for part in projected)
        if modern:
            kind = config["layer_types"][layer]
            query, key = (_turned(part, alive, config["rope_parameters"][kind]["rope_theta"]) for part in (query, key))
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        if disentangled:
            distance_states = norm("bert.encoder.LayerNorm", tensors["bert.encoder.rel_embeddings.weight"].astype(np.float64))
            distance_keys, distance_queries = (
                linear(f"{path}.attention.self.{part}", distance_states).reshape(len(distance_states), heads, -1)
                for part in ("key", "query")
            )
            for i, here in enumerate(alive):
                for j, there in enumerate(alive):
                    row = _distance_row(int(here - there), config)
                    both = (query[:, i] * distance_keys[row]).sum(-1) + (key[:, j] * distance_queries[row]).sum(-1)
                    scores[:, i, j] += both / math.sqrt(query.shape[-1])
            scores /= math.sqrt(3)
        if backbone == "mpnet":
            buckets = np.array([[_bucket(int(there - here)) for there in alive] for here in alive])
            scores = scores + tensors["bert.encoder.relative_attention_bias.weight"].astype(np.float64)[buckets].transpose(2, 0, 1)
        if modern and kind == "sliding_attention":
            scores[:, abs(alive[:, None] - alive) > config["local_attention"] // 2] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (weights / weights.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(x.shape)
        if modern:
            x = x + linear(f"{path}.attention.output.dense", attended)
            inner, by = np.split(linear(f"{path}.intermediate.dense", norm(f"{path}.output.LayerNorm", x)), 2, axis=1)
            x = x + linear(f"{path}.output.dense", _gelu(inner) * by)
        else:
            x = norm(f"{path}.attention.output.LayerNorm", x + linear(f"{path}.attention.output.dense", attended))
            x = norm(f"{path}.output.LayerNorm", x + linear(f"{path}.output.dense", _gelu(linear(f"{path}.intermediate.dense", x))))
        final[alive] = x
    if modern:
        final = norm("bert.final_norm", final)
    for layer in range(layers):
        if f"bert.encoder.skim_predictors.{layer}.forwarding.weight" in tensors:
            skimmed = keep.sum(axis=0) == layer  # by so many layers they were kept
            final[skimmed] += linear(f"bert.encoder.skim_predictors.{layer}.forwarding", final[skimmed])
    if "bert.pooler.dense.weight" not in tensors:
        return Example(None, keep, margins, final)
    if modern:
        pooled = _gelu(linear("bert.pooler.dense", final.mean(axis=0) if config["classifier_pooling"] == "mean" else final[0]))
        return Example(linear("classifier", norm("bert.pooler.norm", pooled)), keep, margins, final)
    pooled = linear("bert.pooler.dense", final[0])
    activated = {"distilbert": lambda x: np.maximum(x, 0), "electra": _gelu, "deberta-v2": _gelu}.get(backbone, np.tanh)
    logits = linear("classifier", activated(pooled))
    return Example(logits, keep, margins, final)


def head_answers(head: str, tensors: dict[str, np.ndarray], hidden: np.ndarray, pooling, epsilon: float) -> dict[str, np.ndarray]:
    """What the other heads than a sequence classifier say of an example, by name, from the final states [n, H] of its tokens."""
    if head == "sentence_embedding":
        vector = hidden.sum(axis=0) / len(hidden) if pooling.mode == "mean" else hidden[0]
        return {"sentence_embedding": vector / math.sqrt((vector**2).sum()) if pooling.normalize else vector}
    if "head.dense.weight" in tensors:  # ModernBERT's, of a model without biases
        hidden = _gelu(hidden @ tensors["head.dense.weight"].astype(np.float64).T)
        hidden = hidden - hidden.mean(-1, keepdims=True)
        hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + epsilon) * tensors["head.norm.weight"]
    name = "qa_outputs" if "qa_outputs.weight" in tensors else "classifier"
    logits = hidden @ tensors[f"{name}.weight"].astype(np.float64).T + tensors[f"{name}.bias"]
    return {"logits": logits} if head == "token_classification" else {"start_logits": logits[:, 0], "end_logits": logits[:, 1]}


def referee_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A saved model's tensors under the names that the referee knows: predictors by the original's, an embedder's as all others."""

    def known(name: str) -> str:
        if name.startswith("skim_predictors."):
            return f"bert.encoder.{name}"
        return name if name.startswith(("bert.", "deberta.", "model.", "head.", "classifier.", "qa_outputs.")) else f"bert.{name}"

    return {known(name): tensor for name, tensor in tensors.items()}


_AS_BERT = {
    "distilbert": {
        "distilbert.": "bert.", "transformer.layer": "encoder.layer", "q_lin": "self.query", "k_lin": "self.key", "v_lin": "self.value",
        "out_lin": "output.dense", "sa_layer_norm": "attention.output.LayerNorm", "output_layer_norm": "output.LayerNorm",
        "ffn.lin1": "intermediate.dense", "ffn.lin2": "output.dense", "pre_classifier": "bert.pooler.dense",
    },
    "electra": {"electra.": "bert.", "classifier.dense": "bert.pooler.dense", "classifier.out_proj": "classifier"},
    "roberta": {"roberta.": "bert.", "classifier.dense": "bert.pooler.dense", "classifier.out_proj": "classifier"},
    "mpnet": {
        "mpnet.": "bert.", "attn.q.": "self.query.", "attn.k.": "self.key.", "attn.v.": "self.value.", "attn.o.": "output.dense.",
        "attention.LayerNorm": "attention.output.LayerNorm", "classifier.dense": "bert.pooler.dense", "classifier.out_proj": "classifier",
    },
    "deberta-v2": {
        "deberta.": "bert.", "self.query_proj": "self.query", "self.key_proj": "self.key", "self.value_proj": "self.value",
        "pooler.dense": "bert.pooler.dense",
    },
    "modernbert": {
        "model.": "bert.", "bert.layers": "bert.encoder.layer", "embeddings.norm": "embeddings.LayerNorm",
        "tok_embeddings": "word_embeddings", "attn.Wo": "attention.output.dense", "attn_norm": "attention.output.LayerNorm",
        "mlp.Wi": "intermediate.dense",
        "mlp.Wo": "output.dense", "mlp_norm": "output.LayerNorm", "head.": "bert.pooler.",
    },
}  # fmt: skip
_AS_BERT["xlm-roberta"] = _AS_BERT["camembert"] = _AS_BERT["roberta"]


def _as_bert(name: str, backbone: str) -> str:
    """What BERT's checkpoints call the tensor of another backbone; predictors are the original's everywhere."""
    if name.startswith("skim_predictors."):
        return f"bert.encoder.{name}"
    for theirs, ours in _AS_BERT.get(backbone, {}).items():
        name = name.replace(theirs, ours)
    return name


def _on_scale(margins: np.ndarray, knots: np.ndarray, saved: np.ndarray) -> np.ndarray:
    """Margins between two knots as what is saved between these; the first and the last stretch go on beyond."""
    for number in range(1, len(knots)):
        knots[number] = max(knots[number], knots[number - 1] + 1e-3)
    behind = np.clip(np.searchsorted(knots, margins) - 1, 0, len(knots) - 2)
    return saved[behind] + (margins - knots[behind]) * (saved[behind + 1] - saved[behind]) / (knots[behind + 1] - knots[behind])


def _turned(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """ModernBERT's queries or keys [heads, n, size], as complex numbers of which each is turned by its own angle a position."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * positions[:, None] * theta ** (-np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _bucket(distance: int) -> int:
    """MPNet's row of a distance, counted: 16 rows a direction, 8 of them for one distance each, the others up to 128 by its logarithm."""
    start, length = (16, distance) if distance > 0 else (0, -distance)
    if length < 8:
        return start + length
    return start + min(15, 8 + sum(length >= 8 * 16 ** (step / 8) - 1e-9 for step in range(1, 8)))


def _distance_row(distance: int, config: dict) -> int:
    """DeBERTa's row of a query so far behind its key, counted: as many rows a direction as there are buckets, half of them for one distance
    each, the others up to the furthest by its logarithm."""
    buckets, furthest = config["position_buckets"], config["max_relative_positions"]
    furthest = furthest if furthest > 0 else config["max_position_embeddings"]
    near, length = buckets // 2, abs(distance)
    if length > near:
        steps = math.log(length / near) / math.log((furthest - 1) / near) * (near - 1)
        length = near + math.ceil(steps - 1e-9)
    return min(max(buckets + (length if distance > 0 else -length), 0), 2 * buckets - 1)


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
