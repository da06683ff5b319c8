"""Ways to compute the same weights on the same token ids. Each is a function of nothing that ends with logits in the host's memory."""

import contextlib
import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.data.batches import EvaluationBatches, TokenizedExamples
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification


def packed(engine: SkimEngine, calls: Sequence[TokenizedExamples], progress: bool = False) -> Callable[[], np.ndarray]:
    """Calls of an engine, one after another."""
    return lambda: np.concatenate([engine.predict_tokenized(examples, progress=progress).logits for examples in calls])


def batched(model: TranskimmerForSequenceClassification, batches: EvaluationBatches, threshold: float) -> Callable[[], np.ndarray]:
    """Padded batches through one jitted program a shape. Collating is not measured, as it is not in the packed contenders' favour."""
    graph, params = nnx.split(model)
    collated = [[batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")] for batch in batches]

    @jax.jit
    def forward(params, threshold, ids, mask, types):
        return nnx.merge(graph, params)(ids, mask, types, threshold=threshold, only_logits=True).logits

    def run():
        started = [forward(params, np.float32(threshold), *inputs) for inputs in collated]
        return np.concatenate(jax.device_get(started))

    return run


def without_predictors(model: TranskimmerForSequenceClassification) -> TranskimmerForSequenceClassification:
    """The same weights without predictors."""
    graph, shapes = nnx.split(TranskimmerForSequenceClassification.abstract(dataclasses.replace(model.arch, skim=None)))
    weights = dict(jax.tree_util.tree_leaves_with_path(nnx.split(model)[1]))
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(lambda path, _: weights[path], shapes))


def torch_runs(
    dense: TranskimmerForSequenceClassification, examples: TokenizedExamples, batch_size: int, dtype: str, contenders: tuple[str, ...]
) -> dict[str, Callable[[], np.ndarray] | None]:
    """transformers' PyTorch BERT with these weights, sorted by length and padded to each batch's longest; on a CPU only."""
    if jax.devices()[0].platform != "cpu":
        return {}
    try:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError:
        return {}
    from transkimmer_jax.weights import config_file, huggingface

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = BertConfig(**config_file.to_values(dense.arch, None, 0) | {"num_labels": dense.arch.num_labels})
    model = BertForSequenceClassification(config).eval()
    model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in huggingface.tensors(dense).items()}, strict=False)
    if dtype == "bfloat16":
        model = model.to(torch.bfloat16)
    order = np.argsort(examples.lengths, kind="stable")
    batches = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = next(iter(EvaluationBatches(examples.take(rows), len(rows), (int(examples.lengths[rows].max()),), 0)))
        batches.append({name: torch.from_numpy(batch[name]).long() for name in ("input_ids", "attention_mask", "token_type_ids")})

    def run_torch():
        with torch.inference_mode():
            return np.concatenate([model(**batch).logits.float().numpy() for batch in batches])

    runs: dict[str, Callable[[], np.ndarray] | None] = {"torch": run_torch if "torch" in contenders else None}
    if "onnxruntime" in contenders and dtype == "float32":
        runs["onnxruntime"] = _onnx_run(model, batches)
    return runs


def _onnx_run(model: Any, batches: list[dict[str, Any]]) -> Callable[[], np.ndarray] | None:
    """The same through onnxruntime with its transformer optimisations; None where it, or torch's exporter, is not installed."""
    try:
        import onnxruntime
        import torch

        exported: Any = io.BytesIO()
        names = list(batches[0])
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, tuple(batches[0].values()), exported, dynamo=False, input_names=names, output_names=["logits"],
                dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
            )  # fmt: skip
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(exported.getvalue(), options, providers=["CPUExecutionProvider"])
    arrays = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches]
    return lambda: np.concatenate([session.run(["logits"], batch)[0] for batch in arrays])


@dataclasses.dataclass(frozen=True)
class Masked:
    """What masked evaluation says: logits [N, labels], and how many layers keep each token, [length] an example."""

    logits: np.ndarray
    depths: list[np.ndarray]


def masked_predictions(model: TranskimmerForSequenceClassification, batches: EvaluationBatches, threshold: float, total: int) -> Masked:
    graph, params = nnx.split(model)

    @jax.jit
    def forward(params, ids, mask, types):
        out = nnx.merge(graph, params)(ids, mask, types, threshold=threshold, only_logits=True)
        return out.logits, jnp.sum(out.keep, axis=0)

    logits, depths = np.zeros((total, model.arch.num_labels), np.float32), [np.zeros(0)] * total
    for batch in batches:
        values, depth = jax.device_get(forward(params, batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]))
        for row, index in enumerate(batch["index"]):
            if index >= 0:
                logits[index] = values[row]
                depths[index] = depth[row, : int(batch["attention_mask"][row].sum())]
    return Masked(logits, depths)
