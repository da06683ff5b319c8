"""What skimming saves on the clock: the same weights and the same texts through every way to compute them, in one process.

The contenders take turns. A shared machine is slower in one minute than in the next, so what is compared are medians of the ratios in a
round. All work from the same token ids and end with logits in the host's memory.
"""

import contextlib
import dataclasses
import io
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from transkimmer_jax.analysis import flops
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.batches import EvaluationBatches, TokenizedExamples, effective_buckets
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.inference.call import Statistics
from transkimmer_jax.inference.engine import SkimEngine, cast
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.schedule import Calibration
from transkimmer_jax.memory import watched_heap
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.models.skim import with_shifted_margins
from transkimmer_jax.progress import tqdm

CONTENDERS = ("masked", "dense_padded", "dense_bucketed", "dense_packed", "compacted", "torch", "onnxruntime")
_CALIBRATION_EXAMPLES = 256  # random ones
_STREAM_TOKENS = 2**15  # of a synthetic stream, as far as four batches are not more
_PASSES = 4  # over the stream at most, until no program is missing
_WATCHED_RUNS = 2  # of which the peak of memory is seen
_SHORTEST_MEASUREMENT = 0.1  # seconds; what is quicker is run several times


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is measured: a skimming model on a stream of examples.

    examples: in the order in which they come. calibration: others like them, or what is known of such.
    padded_length: of the padded dense baseline. dense: the baseline; None: the model without its predictors.
    """

    name: str
    model: TranskimmerForSequenceClassification
    examples: TokenizedExamples
    calibration: TokenizedExamples | Calibration
    padded_length: int
    threshold: float
    dense: TranskimmerForSequenceClassification | None = None


def synthetic(
    arch: Architecture, shares: list[float] | None, batch_size: int, length: int, seed: int = 0, examples: int | None = None
) -> Workload:
    """Random weights and random tokens, of which each layer keeps a stated share.

    The predictors are real ones: the bias of each is set so that the share of a sample's margins exceeds it. So decisions differ
    from text to text as a trained model's do, and cost what they cost.

    Args:
      shares: of all tokens, kept by each layer, falling; None keeps everything.
      examples: texts of the stream; None: some batches. The last batches of every stage are rather empty, which counts for
        less the longer the stream is.
    """
    layers = arch.num_hidden_layers
    if shares is not None and (len(shares) != layers or any(not 0 < share <= 1 for share in shares) or sorted(shares)[::-1] != shares):
        raise ConfigError(f"--keep needs {layers} falling numbers in (0, 1], one a layer, not {shares}")
    rng = np.random.default_rng(seed)
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(seed))
    # As many examples as make the shares of the sample those of the stream.
    sample = _random_examples(rng, arch, max(16, -(-4096 // length)), length)
    if shares is not None:
        model = _with_shares(model, sample, shares)
    # One batch alone may be an odd one.
    count = examples or batch_size * max(4, _STREAM_TOKENS // (batch_size * length))
    stream, calibration = (_random_examples(rng, arch, each, length) for each in (count, _CALIBRATION_EXAMPLES))
    return Workload("synthetic", model, stream, calibration, length, 0.0)


def _random_examples(rng: np.random.Generator, arch: Architecture, count: int, length: int) -> TokenizedExamples:
    ids = rng.integers(0, arch.vocab_size, count * length).astype(np.int32)
    zeros = np.zeros(count, np.int32)
    return TokenizedExamples(ids, np.zeros(len(ids), np.int8), np.arange(count + 1) * length, zeros, zeros.astype(bool))


def _with_shares(
    model: TranskimmerForSequenceClassification, sample: TokenizedExamples, shares: list[float]
) -> TranskimmerForSequenceClassification:
    graph, params = nnx.split(model)
    ids = sample.input_ids.reshape(len(sample), -1)

    @jax.jit
    def forward(params, ids):
        out = nnx.merge(graph, params)(ids, only_logits=True, threshold=0.0)
        return out.margin, out.keep

    before = 1.0
    for layer, share in enumerate(shares):
        margin, keep = jax.device_get(forward(params, ids))
        alive = margin[layer][keep[layer - 1] > 0] if layer else margin[layer]
        # Just under the lowest where all stay.
        limit = np.quantile(alive, 1 - share / before) if share < before else alive.min() - 1.0
        params = with_shifted_margins(params, jnp.zeros(len(shares), jnp.float32).at[layer].set(-limit))
        before = share
    return nnx.merge(graph, params)


def measure(
    workload: Workload,
    *,
    batch_size: int,
    repeats: int,
    online: bool = False,
    dtype: str = "float32",
    contenders: tuple[str, ...] = CONTENDERS,
    progress: bool = True,
) -> dict[str, Any]:
    """One setting's numbers, see `python -m transkimmer_jax benchmark --help`.

    Args:
      batch_size: examples of a batch; packed batches hold as many tokens as this many of their bucket's longest. 1: texts come
        alone, each in a call of its own.
      online: also of other batches each is a call of its own, in the order in which they come, so that no text waits for one of
        another call; False: all are one call. Padded batches are sorted by length over the whole stream all the same.
      repeats: rounds in which every contender runs once, after one that warms up.
      contenders: which to run; compacted and dense_packed always do.
    """
    model = workload.model
    arch = model.arch
    dense = workload.dense or _dense(model)
    baseline = dataclasses.replace(dense.arch, dense_layers=None)  # as it is timed
    cast_model, cast_dense = (cast(_in_dtype(each, dtype)) if dtype != arch.compute_dtype else each for each in (model, dense))
    options: dict[str, Any] = {"batch_size": batch_size, "max_length": workload.padded_length, "threshold": workload.threshold}
    compacted, packed = SkimEngine(cast_model, depths=False, **options), SkimEngine(cast_dense, **options)
    per_call = batch_size if online or batch_size == 1 else None
    for engine in (compacted, packed):
        if isinstance(workload.calibration, Calibration):
            engine.use(workload.calibration if engine is compacted else workload.calibration.of_dense(baseline.num_hidden_layers))
        else:
            engine.calibrate(workload.calibration)
        engine.programs.progress = progress
        # All that texts like these can need would be several times what they do need; a round in which one more is compiled is not
        # the median.
        for _ in range(_PASSES):
            before = len(engine.programs)
            _packed(engine, workload.examples, per_call, progress)()
            if len(engine.programs) == before:
                break
        engine.statistics = Statistics()
        engine.programs.calls.clear()
    buckets = effective_buckets(DataConfig().length_buckets, workload.padded_length)
    order = EvaluationBatches(workload.examples, batch_size, buckets, 0)
    padded = EvaluationBatches(workload.examples, batch_size, (workload.padded_length,), 0)
    runs: dict[str, Callable[[], np.ndarray] | None] = {
        "compacted": _packed(compacted, workload.examples, per_call),
        "dense_packed": _packed(packed, workload.examples, per_call),
        "masked": _batched(cast_model, order, workload.threshold) if "masked" in contenders else None,
        "dense_padded": _batched(cast_dense, padded, 0.0) if "dense_padded" in contenders else None,
        "dense_bucketed": _batched(cast_dense, order, 0.0) if "dense_bucketed" in contenders and len(buckets) > 1 else None,
    }
    if "torch" in contenders or "onnxruntime" in contenders:
        runs |= _torch_runs(dense, workload.examples, batch_size, dtype, contenders)
    seconds = _interleaved({name: run for name, run in runs.items() if run is not None}, ("compacted", "dense_packed"), repeats, progress)
    peaks = [_peak(engine, _packed(engine, workload.examples, per_call)) for engine in (compacted, packed)]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    exact = _masked_predictions(cast_model, order, workload.threshold, len(workload.examples))
    checked = SkimEngine(cast_model, depths=True, calibration=compacted.calibration, **options).predict_tokenized(workload.examples)
    used = flops.skimmed(arch, checked.kept.astype(float), checked.lengths.astype(float)).sum()
    unpadded = flops.dense(baseline, checked.lengths.astype(float)).sum()
    fully_padded = flops.dense(baseline, np.full(len(checked.lengths), float(workload.padded_length))).sum()
    flops_vs_unpadded, clock_vs_unpadded = float(unpadded / used), _times(seconds, "dense_packed")
    return {
        "workload": workload.name,
        "examples": len(workload.examples),
        "tokens": int(workload.examples.lengths.sum()),
        "hidden_size": arch.hidden_size,
        "layers": arch.num_hidden_layers,
        "layers_dense": baseline.num_hidden_layers,
        "predictor_size": arch.predictor_size,
        "batch_size": batch_size,
        "online": online,
        "length": workload.padded_length,
        "dtype": dtype,
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.local_devices()),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "threshold": workload.threshold,
        "kept_per_layer": (checked.kept.sum(axis=1) / checked.lengths.sum()).tolist(),
        "seconds": medians,
        "seconds_of_rounds": seconds,
        "examples_per_second": {name: len(workload.examples) / median for name, median in medians.items()},
        "repeats": repeats,
        "flops_vs_padded": float(fully_padded / used),
        "flops_vs_unpadded": flops_vs_unpadded,
        "clock_vs_padded": _times(seconds, "dense_padded") if "dense_padded" in seconds else None,
        "clock_vs_unpadded": clock_vs_unpadded,
        "efficiency": clock_vs_unpadded / flops_vs_unpadded,
        "flops_run": _flops_run(compacted) / used * len(workload.examples) / compacted.statistics.examples,
        "flops_run_dense": _flops_run(packed) / unpadded * len(workload.examples) / packed.statistics.examples,
        **_disagreement(checked, exact),
        "programs": len(compacted.programs),
        "programs_dense": len(packed.programs),
        "compile_seconds": compacted.programs.compile_seconds,
        "batches": compacted.statistics.batches,
        "overflows": compacted.statistics.overflows,
        "texts_run_again": compacted.statistics.again,
        "lookup_bytes": compacted.lookup_bytes,
        "temporary_bytes": compacted.programs.temporary_bytes(),
        "temporary_bytes_dense": packed.programs.temporary_bytes(),
        "peak_bytes": peaks[0],
        "peak_bytes_dense": peaks[1],
    }


def _peak(engine: SkimEngine, run: Callable[[], Any]) -> int | None:
    """The most memory that a run takes, beside weights and programs, on a CPU where it can be known."""
    if jax.devices()[0].platform != "cpu":
        return None
    with watched_heap() as peak:
        for _ in range(_WATCHED_RUNS):
            run()
    return None if peak.bytes is None else peak.bytes + engine.lookup_bytes


def _times(seconds: dict[str, list[float]], contender: str) -> float:
    """How many times as long as compacted a contender takes, the median over the rounds."""
    return statistics.median(theirs / ours for theirs, ours in zip(seconds[contender], seconds["compacted"], strict=True))


def _flops_run(engine: SkimEngine) -> float:
    """Operations of all programs that an engine has run, empty rows and second runs included."""
    return sum(count * schedule.flops(engine.arch) * engine.programs.device_count for schedule, count in engine.programs.calls.items())


def _interleaved(runs: dict[str, Callable[[], Any]], warm: Sequence[str], repeats: int, progress: bool) -> dict[str, list[float]]:
    """Seconds of every repeat of every contender, which take turns; those not `warm` run once before."""
    inner = {}
    for name, run in runs.items():
        if name not in warm:
            run()
        started = time.perf_counter()
        run()
        inner[name] = max(1, math.ceil(_SHORTEST_MEASUREMENT / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(repeats), desc="measuring", unit="round", leave=False, disable=not progress):
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(inner[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / inner[name])
    return seconds


@dataclasses.dataclass(frozen=True)
class _Masked:
    """What masked evaluation says: logits [N, labels], and how many layers keep each token, [length] an example."""

    logits: np.ndarray
    depths: list[np.ndarray]


def _masked_predictions(model: TranskimmerForSequenceClassification, batches: EvaluationBatches, threshold: float, total: int) -> _Masked:
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
    return _Masked(logits, depths)


def _disagreement(predictions: Predictions, exact: _Masked) -> dict[str, Any]:
    """Where compacted and masked computation differ. A decision within float noise of the threshold may, in two programs."""
    assert predictions.depths is not None
    flipped = np.array([int((ours != theirs).sum()) for ours, theirs in zip(predictions.depths, exact.depths, strict=True)])
    difference = np.abs(predictions.logits - exact.logits).max(axis=1)
    changed = (predictions.logits.argmax(axis=1) != exact.logits.argmax(axis=1)).sum() if predictions.logits.shape[1] > 1 else 0
    return {
        "max_logit_difference": float(difference[flipped == 0].max(initial=0.0)),
        "decisions_flipped": int(flipped.sum()),
        "predictions_changed": int(changed),
    }


def _packed(engine: SkimEngine, examples: TokenizedExamples, per_call: int | None, progress: bool = False) -> Callable[[], np.ndarray]:
    """So many texts a call, in the order in which they come; None: all in one."""
    count = len(examples)
    parts = [examples]
    if per_call is not None:
        parts = [examples.take(np.arange(start, min(count, start + per_call))) for start in range(0, count, per_call)]
    return lambda: np.concatenate([engine.predict_tokenized(part, progress=progress and part is examples).logits for part in parts])


def _batched(model: TranskimmerForSequenceClassification, batches: EvaluationBatches, threshold: float) -> Callable[[], np.ndarray]:
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


def _dense(model: TranskimmerForSequenceClassification) -> TranskimmerForSequenceClassification:
    """The same weights without predictors."""
    graph, shapes = nnx.split(TranskimmerForSequenceClassification.abstract(dataclasses.replace(model.arch, skim=None)))
    weights = dict(jax.tree_util.tree_leaves_with_path(nnx.split(model)[1]))
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(lambda path, _: weights[path], shapes))


def _in_dtype(model: TranskimmerForSequenceClassification, dtype: str) -> TranskimmerForSequenceClassification:
    """The same weights, computed in another dtype."""
    arch = dataclasses.replace(model.arch, compute_dtype=dtype)
    graph, _ = nnx.split(TranskimmerForSequenceClassification.abstract(arch))
    return nnx.merge(graph, nnx.split(model)[1])


def _torch_runs(
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
    from transkimmer_jax.models import architecture
    from transkimmer_jax.weights import huggingface

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = BertConfig(**architecture.to_hugging_face(dense.arch, None, 0) | {"num_labels": dense.arch.num_labels})
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
