"""Masked evaluation over whole splits, in the fixed shapes of training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.data.batches import EvaluationBatches
from transkimmer_jax.distributed.placement import Placement, gathered
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.progress import tqdm

# (params, batch, threshold) -> the head's outputs by name, "texts" [B, ...] and "tokens" [B, S, ...]; "kept" [layers, B], "lengths" [B]
EvaluationStep = Callable[[Any, dict[str, Any], Any], dict[str, Any]]


def jitted(graph: nnx.GraphDef, placement: Placement | None = None, depths: bool = False) -> Any:
    """The step of the models with this graph: deterministic gates, the threshold a run-time value.

    placement: the mesh that computes it, of arrays of its own; the answers are whole everywhere. None: the default device.
    depths: whether "tokens" also say how many layers keep each, as "depth".
    """

    def step(params, batch, threshold):
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        model = nnx.merge(graph, gathered(params))
        out = model(*inputs, threshold=threshold, only_logits=True)
        lengths = jnp.sum(batch["attention_mask"].astype(jnp.float32), axis=-1)
        outputs, per_token = model.outputs_of(out), {output.name for output in model.outputs if output.per_token}
        depth = {"depth": jnp.sum(out.keep, axis=0)} if depths else {}
        return {
            "texts": {name: values for name, values in outputs.items() if name not in per_token},
            "tokens": {name: values for name, values in outputs.items() if name in per_token} | depth,
            "kept": jnp.sum(out.keep, axis=-1),
            "lengths": lengths,
        }

    return jax.jit(step) if placement is None else jax.jit(step, out_shardings=placement.replicated)


def evaluation_step(graph: nnx.GraphDef, placement: Placement | None = None, depths: bool = False) -> EvaluationStep:
    """`jitted`, for batches in the host's memory.

    placement: the mesh that computes it; each process then gives whole batches, and gets all answers. None: the default device.
    """
    step = jitted(graph, placement, depths)
    if placement is None:
        return step

    def placed(params, batch, threshold):
        size = len(batch["input_ids"])
        return step(params, placement.global_batch(batch, np.arange(size), size), threshold)

    return placed


def predict(
    step: EvaluationStep, params: Any, batches: EvaluationBatches, total: int, threshold: float, progress: str | None = None
) -> Predictions:
    """Run `step` over `batches` and put the answers into the order of the split; padding rows are dropped.

    progress: the progress bar's label; None for no bar.
    """
    rows: dict[str, list[np.ndarray]] = {}  # by output, of each example
    for batch in tqdm(batches, desc=progress, disable=progress is None, leave=False, unit="batch"):
        index = batch["index"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        out = jax.device_get(step(params, inputs, np.float32(threshold)))
        real = np.flatnonzero(index >= 0)
        columns = out["texts"] | {"kept": out["kept"].T, "lengths": out["lengths"]}
        answers = {name: values[:, None] for name, values in columns.items()} | out["tokens"]
        for name, values in answers.items():
            of_examples = rows.setdefault(name, [np.zeros(0)] * total)
            for row in real:
                # Of tokens without the padding.
                of_examples[index[row]] = values[row][batch["attention_mask"][row] != 0] if name in out["tokens"] else values[row]
    merged = {name: np.concatenate(values) for name, values in rows.items()}
    return Predictions(kept=merged.pop("kept").T, lengths=merged.pop("lengths").astype(np.int64), outputs=merged)
