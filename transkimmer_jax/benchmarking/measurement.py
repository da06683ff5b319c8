"""What skimming saves on the clock: the same weights and the same texts through every way to compute them, in one process.

The contenders take turns. A shared machine is slower in one minute than in the next, so what is compared are medians of the ratios in a
round. All work from the same token ids and end with logits in the host's memory.
"""

import dataclasses
import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from transkimmer_jax.analysis import flops
from transkimmer_jax.benchmarking import contenders as ways
from transkimmer_jax.benchmarking.workloads import Workload
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.batches import EvaluationBatches, TokenizedExamples, effective_buckets
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.inference.programs import cast

CONTENDERS = ("masked", "dense_padded", "dense_bucketed", "dense_packed", "compacted", "torch", "onnxruntime")
_PASSES = 4  # over the stream at most, until no program is missing
_SHORTEST_MEASUREMENT = 0.1  # seconds; what is quicker is run several times


def measure(
    workload: Workload,
    *,
    batch_size: int,
    repeats: int,
    online: bool = False,
    runtime: str | None = None,
    provider: str | None = None,
    precision: str = "float32",
    contenders: tuple[str, ...] = CONTENDERS,
    progress: bool = True,
    after_round: Callable[[dict[str, list[float]]], None] | None = None,
) -> dict[str, Any]:
    """One setting's numbers, see `transkimmer benchmark --help`.

    Args:
      batch_size: examples of a batch; packed batches hold as many tokens as this many of their bucket's longest. 1: texts come
        alone, each in a call of its own.
      online: also of other batches each is a call of its own, in the order in which they come, so that no text waits for one of
        another call; False: all are one call. Padded batches are sorted by length over the whole stream all the same.
      runtime, provider: of compacted and dense_packed; None: the default for the devices at hand.
      precision: of all contenders; for int8 the others compute in float32.
      repeats: rounds in which every contender runs once, after one that warms up.
      contenders: which to run; compacted and dense_packed always do.
      after_round: called after every round with the seconds of all rounds so far, by contender.
    """
    model = workload.model
    arch = model.arch
    dense = workload.dense or ways.without_predictors(model)
    baseline = dataclasses.replace(dense.arch, dense_layers=None)  # as it is timed
    dtype = "float32" if precision == "int8" else precision
    cast_model, cast_dense = cast(model, dtype), cast(dense, dtype)
    options: dict[str, Any] = {
        "batch_size": batch_size, "max_length": workload.padded_length, "threshold": workload.threshold,
        "runtime": runtime, "provider": provider, "precision": precision,
    }  # fmt: skip
    compacted, packed = SkimEngine(model, **options), SkimEngine(dense, **options)
    parts = _calls(workload.examples, batch_size if online or batch_size == 1 else None)
    _prepare(compacted, workload.calibration, parts, progress)
    _prepare(packed, None, parts, progress)
    before = dataclasses.replace(compacted.statistics)
    buckets = effective_buckets(DataConfig().length_buckets, workload.padded_length)
    order = EvaluationBatches(workload.examples, batch_size, buckets, 0)
    padded = EvaluationBatches(workload.examples, batch_size, (workload.padded_length,), 0)
    run_compacted, run_packed = ways.packed(compacted, parts), ways.packed(packed, parts)
    runs: dict[str, Callable[[], np.ndarray] | None] = {
        "compacted": run_compacted,
        "dense_packed": run_packed,
        "masked": ways.batched(cast_model, order, workload.threshold) if "masked" in contenders else None,
        "dense_padded": ways.batched(cast_dense, padded, 0.0) if "dense_padded" in contenders else None,
        "dense_bucketed": ways.batched(cast_dense, order, 0.0) if "dense_bucketed" in contenders and len(buckets) > 1 else None,
    }
    if "torch" in contenders or "onnxruntime" in contenders:
        runs |= ways.torch_runs(dense, workload.examples, batch_size, dtype, contenders)
    taking_part = {name: run for name, run in runs.items() if run is not None}
    seconds = _interleaved(taking_part, ("compacted", "dense_packed"), repeats, after_round or (lambda seconds: None))
    after = compacted.statistics
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    exact = ways.masked_predictions(cast_model, order, workload.threshold, len(workload.examples))
    checked = SkimEngine(model, depths=True, **options).predict_tokenized(workload.examples)
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
        "runtime": compacted.runtime.name,
        "provider": provider,
        "dtype": precision,
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
        **_disagreement(checked, exact),
        "batches": after.batches - before.batches,
        "overflows": after.overflows - before.overflows,
        "texts_run_again": after.again - before.again,
        "programs": after.programs,
        "compile_seconds": after.compile_seconds,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def _calls(examples: TokenizedExamples, per_call: int | None) -> list[TokenizedExamples]:
    """So many texts a call, in the order in which they come; None: all in one."""
    count = len(examples)
    if per_call is None:
        return [examples]
    return [examples.take(np.arange(start, min(count, start + per_call))) for start in range(0, count, per_call)]


def _prepare(
    engine: SkimEngine, calibration: TokenizedExamples | Calibration | None, parts: Sequence[TokenizedExamples], progress: bool
) -> None:
    """Calibrate an engine, and run calls through it until it has all programs that they need.

    All that texts like these can need would be several times what they do need; a round in which one more is compiled is not the median.
    """
    if isinstance(calibration, Calibration):
        engine.runtime.expect(calibration)
    elif calibration is not None:
        engine.calibrate(calibration)
    for _ in range(_PASSES):
        before = engine.statistics.programs
        ways.packed(engine, parts, progress and len(parts) == 1)()
        if engine.statistics.programs == before:
            break


def _times(seconds: dict[str, list[float]], contender: str) -> float:
    """How many times as long as compacted a contender takes, the median over the rounds."""
    return statistics.median(theirs / ours for theirs, ours in zip(seconds[contender], seconds["compacted"], strict=True))


def _interleaved(
    runs: dict[str, Callable[[], Any]], warm: Sequence[str], repeats: int, after_round: Callable[[dict[str, list[float]]], None]
) -> dict[str, list[float]]:
    """Seconds of every repeat of every contender, which take turns; those not `warm` run once before."""
    for name, run in runs.items():
        if name not in warm:
            run()

    def seconds_of_round(inner: dict[str, int]) -> dict[str, float]:
        seconds = {}
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(inner[name]):
                run()
            seconds[name] = (time.perf_counter() - started) / inner[name]
        return seconds

    once = seconds_of_round(dict.fromkeys(runs, 1))
    inner = {name: max(1, math.ceil(_SHORTEST_MEASUREMENT / seconds)) for name, seconds in once.items()}
    # Where nothing is too quick for the clock, that was a round like any other.
    rounds = [once] if max(inner.values()) == 1 else []
    while True:
        if rounds:
            after_round({name: [each[name] for each in rounds] for name in runs})
        if len(rounds) == repeats:
            return {name: [each[name] for each in rounds] for name in runs}
        rounds.append(seconds_of_round(inner))


def _disagreement(predictions: Predictions, exact: ways.Masked) -> dict[str, Any]:
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
