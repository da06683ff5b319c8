"""What skimming saves on the clock: the same weights and the same texts in every way that users have, in one process.

The contenders take turns. A shared machine is slower in one minute than in the next, so what is compared are medians of the ratios in a
round. All work from the same token ids and end with logits in the host's memory.
"""

import dataclasses
import functools
import pathlib
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from tools import references
from tools.contenders import Contender
from tools.workloads import Workload
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.batches import EvaluationBatches, TokenizedExamples, effective_buckets
from transkimmer_jax.evaluation import masked
from transkimmer_jax.evaluation.clock import Rounds, calls, interleaved, samples
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions, decisions
from transkimmer_jax.inference.programs import cast
from transkimmer_jax.models import flops
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.processors import available_processors

_PASSES = 4  # over the stream at most, until no program is missing

Run = Callable[[], np.ndarray]


def measure(
    workload: Workload,
    contenders: Sequence[Contender],
    *,
    batch_size: int,
    repeats: int,
    timed: int | None = None,
    progress: bool = True,
    after_round: Callable[[Rounds], None] | None = None,
) -> dict[str, Any]:
    """One setting's numbers, see `transkimmer benchmark --help`.

    Args:
      contenders: what takes part.
      batch_size: examples of a batch, which are of about one length. 1: texts come alone, each in a call of its own. Of long texts this
        engine computes a batch in several parts.
      repeats: rounds in which every contender runs once, after one pass over all examples, which gives its answers, and a round that is not
        counted.
      timed: examples of a round, chosen anew in each; None: half of them.
      after_round: called after every round with the seconds of all rounds so far, by contender.
    """
    model, examples, arch = workload.model, workload.examples, workload.model.arch
    dense = workload.dense or references.without_predictors(model)
    baseline = dataclasses.replace(dense.arch, dense_layers=None, dense_intermediate=None)  # as it is timed
    setting = _Setting(workload, dense, batch_size, progress)
    timed = min(timed or max(1, len(examples) // 2), len(examples))
    parts = samples(examples, timed, repeats)
    logits: dict[str, np.ndarray] = {}
    runs: dict[str, Callable[[int], np.ndarray]] = {}
    for contender in contenders:
        prepared = setting.prepared(contender)
        logits[str(contender)] = prepared(examples)()
        runs[str(contender)] = functools.partial(_run_of, [prepared(part) for part in parts])
    setting.statistics_so_far()
    seconds = interleaved(runs, range(repeats + 1), after_round)
    checked = setting.checked()
    graph, params = nnx.split(model)
    step = masked.evaluation_step(graph, depths=True)
    exact = masked.predict(step, params, setting.bucketed(examples), len(examples), workload.threshold)
    used = flops.skimmed(arch, checked.kept.astype(float), checked.lengths.astype(float)).sum()
    unpadded = flops.dense(baseline, checked.lengths.astype(float)).sum()
    fully_padded = flops.dense(baseline, np.full(len(checked.lengths), float(workload.padded_length))).sum()
    flops_vs_unpadded = float(unpadded / used)
    reference = next((logits[str(other)] for other in contenders if not other.skims and other.precision == "float32"), None)
    return {
        "workload": workload.name,
        "examples": len(examples),
        "timed": timed,
        "tokens": int(examples.lengths.sum()),
        "hidden_size": arch.hidden_size,
        "layers": arch.num_hidden_layers,
        "layers_dense": baseline.num_hidden_layers,
        "predictor_size": arch.predictor_size,
        "deciding_layers": list(arch.predictor_layers),
        "batch_size": batch_size,
        "length": workload.padded_length,
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.local_devices()),
        "cores": available_processors(),
        "machine": platform.machine(),
        "cpu": processor(),
        "threshold": workload.threshold,
        "kept_per_layer": (checked.kept.sum(axis=1) / checked.lengths.sum()).tolist(),
        "repeats": repeats,
        "tokenizing_seconds": workload.tokenizing_seconds,
        "flops_vs_padded": float(fully_padded / used),
        "flops_vs_unpadded": flops_vs_unpadded,
        **_disagreement(checked, exact),
        "contenders": {
            str(contender): {
                **_clock(contender, seconds, timed, flops_vs_unpadded),
                **_answers(workload, logits[str(contender)], exact.logits if contender.skims else reference),
                **setting.statistics_of(contender),
            }
            for contender in contenders
        },
    }


def processor() -> str:
    """The processor, and which of the instructions that matter it has, where the system says so."""
    try:
        lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    values = {name.strip(): value.strip() for name, value in lines.items()}
    flags = values.get("flags", "").split()
    widest = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if name in flags]
    return " ".join([values.get("model name", platform.machine()), *widest])


class _Setting:
    """A workload at one batch size, for which contenders are made ready: what several of them share is made once."""

    def __init__(self, workload: Workload, dense: TranskimmerForSequenceClassification, batch_size: int, progress: bool):
        self._workload, self._dense, self._batch_size, self._progress = workload, dense, batch_size, progress
        self._buckets = effective_buckets(DataConfig().length_buckets, workload.padded_length)
        self._engines: dict[Contender, SkimEngine] = {}
        self._before: dict[Contender, dict[str, float]] = {}
        self._libraries: Any = None

    def prepared(self, contender: Contender) -> Callable[[TokenizedExamples], Run]:
        """A function that gives, for examples, one that computes their logits [N, labels]."""
        if contender.own:
            engine = self._engines[contender] = self._engine(contender)
            self._warm_up(engine)
            return lambda examples: _engine_run(engine, calls(examples, self._batch_size))
        skims = contender.skims
        model, threshold = (self._workload.model, self._workload.threshold) if skims else (self._dense, 0.0)
        if contender.runtime == "jax":
            padded, cast_model = contender.way == "padded", cast(model, contender.precision)
            batches = self._padded if padded else self.bucketed
            return lambda examples: references.batched(cast_model, batches(examples), threshold, len(examples))
        length = self._workload.padded_length if contender.way == "padded" else None
        if self._libraries is None:
            # Here, as an image for accelerators has none of them.
            from tools.libraries import DenseModel

            self._libraries = DenseModel(self._dense)
        forward = self._libraries.forward(contender.runtime, contender.precision, self._workload.sample())
        return lambda examples: self._libraries.run(forward, examples, self._batch_size, length)

    def bucketed(self, examples: TokenizedExamples) -> EvaluationBatches:
        """Sorted by length, padded to few lengths."""
        return EvaluationBatches(examples, self._batch_size, self._buckets, 0)

    def checked(self) -> Predictions:
        """What compacted computation in float32 keeps, and answers, in a runtime that takes part."""
        runtime = next((engine.runtime.name for contender, engine in self._engines.items() if contender.skims), None)
        options: dict[str, Any] = {"depths": True, "max_length": self._workload.padded_length, "threshold": self._workload.threshold}
        return SkimEngine(self._workload.model, runtime=runtime, **options).predict_tokenized(self._workload.examples)

    def statistics_so_far(self) -> None:
        """Count from here."""
        self._before = {contender: dataclasses.asdict(engine.statistics) for contender, engine in self._engines.items()}

    def statistics_of(self, contender: Contender) -> dict[str, Any]:
        """What an engine of compiled programs did in the rounds: batches, and texts that had to run again; programs, in all."""
        if contender.runtime != "jax" or not contender.own:
            return {}
        now = dataclasses.asdict(self._engines[contender].statistics)
        since = {name: now[name] - self._before[contender][name] for name in ("batches", "overflows", "again")}
        return since | {name: now[name] for name in ("programs", "compile_seconds")}

    def _engine(self, contender: Contender) -> SkimEngine:
        model = self._workload.model if contender.skims else self._dense
        runtime: dict[str, Any] = {"runtime": "jax"} if contender.runtime == "jax" else {"runtime": "onnx", "provider": contender.runtime}
        return SkimEngine(
            model,
            batch_size=self._batch_size,
            max_length=self._workload.padded_length,
            threshold=self._workload.threshold if contender.skims else None,
            precision=contender.precision,
            **runtime,
        )

    def _warm_up(self, engine: SkimEngine) -> None:
        """Calibrate an engine of compiled programs, and run calls through it until it has all programs that they need.

        All that texts like these can need would be several times what they do need; a round in which one more is compiled is not the
        median.
        """
        if engine.runtime.name != "jax":
            return
        if engine.arch.skim is not None:
            if self._workload.calibration is not None:
                engine.runtime.set_calibration(self._workload.calibration)
            else:
                engine.calibrate(self._workload.sample())
        stream = calls(self._workload.examples, self._batch_size)
        for _ in range(_PASSES):
            before = engine.statistics.programs
            _engine_run(engine, stream, self._progress and len(stream) == 1)()
            if engine.statistics.programs == before:
                return

    def _padded(self, examples: TokenizedExamples) -> EvaluationBatches:
        return EvaluationBatches(examples, self._batch_size, (self._workload.padded_length,), 0)


def _engine_run(engine: SkimEngine, stream: Sequence[TokenizedExamples], progress: bool = False) -> Run:
    return lambda: np.concatenate([engine.predict_tokenized(call, progress=progress).logits for call in stream])


def _run_of(rounds: Sequence[Run], number: int) -> np.ndarray:
    return rounds[number]()


def _clock(contender: Contender, seconds: Rounds, examples: int, flops_vs_unpadded: float) -> dict[str, Any]:
    rounds = seconds[str(contender)]
    entry: dict[str, Any] = {
        "seconds": statistics.median(rounds),
        "seconds_of_rounds": rounds,
        "examples_per_second": examples / statistics.median(rounds),
    }
    if contender.skims:
        entry["times_faster_than"] = {
            name: statistics.median(theirs / ours for theirs, ours in zip(other, rounds, strict=True))
            for name, other in seconds.items()
            if name != str(contender)
        }
        packed = entry["times_faster_than"].get(str(contender.without_skimming()))
        entry["efficiency"] = None if packed is None else packed / flops_vs_unpadded
    return entry


def _answers(workload: Workload, logits: np.ndarray, reference: np.ndarray | None) -> dict[str, Any]:
    """What a contender's answers are worth, and of how many texts they differ from those of the same weights in float32."""
    changed, multi_label = None, workload.model.arch.multi_label
    if reference is not None and not workload.model.arch.is_regression:
        differs = decisions(logits, multi_label) != decisions(reference, multi_label)
        changed = int(differs.reshape(len(logits), -1).any(axis=1).sum())
    return {"metrics": None if workload.metrics is None else workload.metrics(logits), "predictions_changed": changed}


def _disagreement(predictions: Predictions, exact: Predictions) -> dict[str, Any]:
    """Where compacted and masked computation differ. A decision within float noise of the threshold may, in two programs.

    Logits are compared of texts without such decisions; None where there is none.
    """
    assert predictions.depths is not None
    flipped = np.array([int((ours != theirs).sum()) for ours, theirs in zip(predictions.depths, exact.by_text("depth"), strict=True)])
    difference = np.abs(predictions.logits - exact.logits).max(axis=1)
    same = difference[flipped == 0]
    return {"max_logit_difference": float(same.max()) if len(same) else None, "decisions_flipped": int(flipped.sum())}
