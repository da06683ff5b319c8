"""Time the same texts in every way to compute them: this engine, skimming or dense, and other libraries.

    python -m tools.benchmark --model runs/sst2/model --dense runs/sst2/dense/model --task glue/sst2 --batch-size 1 32 --json FILE

Contenders take turns in one process. A shared machine is slower in one minute than in the next, so speeds are compared by the median of the
ratios in a round. All start from the same token ids and end with logits in the host's memory.
"""

import dataclasses
import functools
import json
import logging
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from tools import records
from tools.contenders import ALL, WAYS, Contender, chosen
from tools.libraries import DenseModel
from transkimmer_jax.checkpoints import config_file, sentence_transformers
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data import pipeline, sources
from transkimmer_jax.data.batches import EvaluationBatches, TokenizedExamples, effective_buckets
from transkimmer_jax.data.examples import Examples, subsample
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.evaluation import labelled, masked
from transkimmer_jax.evaluation.clock import Rounds, calls, interleaved, samples
from transkimmer_jax.evaluation.metrics import score_logits
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.predictions import Predictions, decisions
from transkimmer_jax.models import flops
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.progress import tqdm

logger = logging.getLogger("transkimmer_jax")

_CALIBRATED_ON = 1024  # texts, where the model folder says nothing of a threshold
_TOKENIZED = 3  # times, of which the median counts
_PASSES = 4  # over the stream at most, until no program is missing
_WAYS = "\n".join(f"  {name:<10} {what}" for name, what in WAYS.items())
_FIELDS = f"""
Contenders are named WAY:RUNTIME:PRECISION, where WAY is
{_WAYS}
and the names are
  {", ".join(map(str, ALL[: len(ALL) // 2]))},
  {", ".join(map(str, ALL[len(ALL) // 2 :]))}.
By default a CPU runs all without JAX whose libraries are installed (torch, openvino, nncf), an accelerator those with JAX.

One JSON object a batch size:
  contenders.NAME.
    examples_per_second, seconds, seconds_of_rounds   medians, and every round's, of --timed examples, others in each
    times_faster_than       of a skimming contender, over every other one: the median of the ratios in a round
    metrics                 the task's, over all examples
    predictions_changed     answers other than those of the same weights in float32, of all examples
  flops_vs_padded, flops_vs_unpadded   times fewer FLOPs than the dense model with and without padding
  decisions_flipped         of compacted computation in float32 against masked evaluation
  max_logit_difference      of the same, of texts without flipped decisions; null where every text has one
  tokenizing_seconds        for all examples; no contender's time has it
"""

Run = Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Workload:
    """A skimming model on a stream of texts.

    examples: in the order in which they come. sample: others like them. calibration: of the model folder; None: there is none.
    padded_length: of the padded dense baseline. dense: the baseline. metrics: of logits [N, labels].
    """

    name: str
    model: TranskimmerForSequenceClassification
    dense: TranskimmerForSequenceClassification
    examples: TokenizedExamples
    sample: Callable[[], TokenizedExamples]
    padded_length: int
    threshold: float
    calibration: Calibration | None
    metrics: Callable[[np.ndarray], dict[str, float]]
    tokenizing_seconds: float

    @classmethod
    def load(
        cls, model: str, dense: str, task_name: str, data_dir: str | None = None, examples: int | None = None, length: int | None = None
    ) -> "Workload":
        """A classifier on the validation split of its task.

        Raises:
          CheckpointError: a model without predictors, or of another head. ConfigError: models that cannot be compared.
        """
        folder = resolve(model)
        config = config_file.read(folder)
        if config.architecture.head != "sequence_classification" or config.architecture.skim is None:
            raise CheckpointError(f"{model} is no skimming classifier or cross-encoder: only those are measured here")
        data = DataConfig(task=task_name, data_dir=data_dir)
        task = get_task(data)
        if not config_file.same_labels(config.label_names, task.label_names):
            raise ConfigError(f"{model} has other labels than {task_name}")
        labelled.require_comparable(dense, model)
        max_length = labelled.read_length(model, folder, config, task, length, "--length")
        skimming = TranskimmerForSequenceClassification.from_pretrained(folder, dense=None, complete=True)
        tokenizer = pipeline.load_tokenizer(folder, skimming.arch.vocab_size)
        prompt = sentence_transformers.read_settings(folder, skimming.arch.head, config.values).default_text
        texts = subsample(sources.load_split(task, next(iter(task.validation_splits.values())), data), examples, seed=0)
        seconds = []
        for _ in range(_TOKENIZED):
            started = time.perf_counter()
            tokens = pipeline.tokenize(texts.behind(prompt), tokenizer, max_length)
            seconds.append(time.perf_counter() - started)

        def sample() -> TokenizedExamples:
            others: Examples = subsample(sources.load_split(task, task.train_split, data), _CALIBRATED_ON, seed=1)
            return pipeline.tokenize(others.behind(prompt), tokenizer, max_length)

        return cls(
            name=task.name, model=skimming, dense=TranskimmerForSequenceClassification.from_pretrained(dense, dense=True),
            examples=tokens, sample=sample, padded_length=max_length, threshold=config.architecture.skim.threshold,
            calibration=Calibration.load(folder, skimming.arch.num_hidden_layers),
            metrics=lambda logits: score_logits(task, logits, texts.labels), tokenizing_seconds=statistics.median(seconds),
        )  # fmt: skip


def measure(workload: Workload, contenders: Sequence[Contender], *, batch_size: int, repeats: int, timed: int | None = None) -> dict:
    """The record of one batch size, see `--help`.

    Args:
      batch_size: examples of a batch, which are of about one length. 1: texts come alone, each in a call of its own.
      repeats: rounds in which every contender runs once, behind a pass over all examples for its answers and a round that is not counted.
      timed: examples of a round, chosen anew in each; None: half of them.
    """
    examples, arch = workload.examples, workload.model.arch
    timed = min(timed or max(1, len(examples) // 2), len(examples))
    parts = samples(examples, timed, repeats)
    library = DenseModel(workload.dense)
    logits: dict[str, np.ndarray] = {}
    runs: dict[str, Callable[[int], np.ndarray]] = {}
    for contender in contenders:
        prepared = _prepared(workload, contender, batch_size, library)
        logits[str(contender)] = prepared(examples)()
        runs[str(contender)] = functools.partial(_nth, [prepared(part) for part in parts])
    seconds = interleaved(runs, range(repeats + 1), functools.partial(_show, repeats))
    checked, exact = _compacted(workload), _masked(workload, batch_size)
    baseline = dataclasses.replace(workload.dense.arch, dense_layers=None, dense_intermediate=None)  # as it is timed
    lengths = checked.lengths.astype(float)
    used = flops.skimmed(arch, checked.kept.astype(float), lengths).sum()
    reference = next((logits[str(other)] for other in contenders if not other.skims and other.precision == "float32"), None)
    return {
        "workload": workload.name, "examples": len(examples), "timed": timed, "tokens": int(examples.lengths.sum()),
        "hidden_size": arch.hidden_size, "layers": arch.num_hidden_layers, "layers_dense": baseline.num_hidden_layers,
        "predictor_size": arch.predictor_size, "batch_size": batch_size, "length": workload.padded_length,
        "device": jax.devices()[0].device_kind, "devices": len(jax.local_devices()), "cpu": records.processor(),
        "threshold": workload.threshold, "kept_per_layer": (checked.kept.sum(axis=1) / checked.lengths.sum()).tolist(),
        "repeats": repeats, "tokenizing_seconds": workload.tokenizing_seconds,
        "flops_vs_padded": float(flops.dense(baseline, np.full(len(lengths), float(workload.padded_length))).sum() / used),
        "flops_vs_unpadded": float(flops.dense(baseline, lengths).sum() / used),
        **disagreement(checked, exact),
        "contenders": {
            name: _clock(contender, seconds, timed)
            | _answers(workload, logits[name], exact.logits if contender.skims else reference)
            for contender in contenders
            for name in [str(contender)]
        },
    }  # fmt: skip


def _prepared(workload: Workload, contender: Contender, batch_size: int, library: DenseModel) -> Callable[[TokenizedExamples], Run]:
    """A function from examples to a function that computes their logits [N, labels]."""
    if not contender.own:
        forward = library.forward(contender.runtime, contender.precision, workload.sample())
        return lambda examples: library.run(forward, examples, batch_size)
    engine = SkimEngine(
        workload.model if contender.skims else workload.dense,
        batch_size=batch_size, max_length=workload.padded_length, threshold=workload.threshold if contender.skims else None,
        precision=contender.precision, **_runtime(contender),
    )  # fmt: skip
    if contender.runtime == "jax":
        _warm_up(workload, engine, batch_size)
    return lambda examples: functools.partial(_computed, engine, calls(examples, batch_size))


def _runtime(contender: Contender) -> dict[str, Any]:
    return {"runtime": "jax"} if contender.runtime == "jax" else {"runtime": "onnx", "provider": contender.runtime}


def _computed(engine: SkimEngine, stream: Sequence[TokenizedExamples]) -> np.ndarray:
    return np.concatenate([engine.predict_tokenized(call).logits for call in stream])


def _nth(rounds: Sequence[Run], number: int) -> np.ndarray:
    return rounds[number]()


def _warm_up(workload: Workload, engine: SkimEngine, batch_size: int) -> None:
    """Calibrate an engine of compiled programs, and run the stream until all programs that it needs are there."""
    if engine.arch.skim is not None:
        if workload.calibration is not None:
            engine.runtime.set_calibration(workload.calibration)
        else:
            engine.calibrate(workload.sample())
    for _ in range(_PASSES):
        before = engine.statistics.programs
        _computed(engine, calls(workload.examples, batch_size))
        if engine.statistics.programs == before:
            return


def _compacted(workload: Workload) -> Predictions:
    """Kept tokens and answers of compacted computation in float32."""
    options: dict[str, Any] = {"depths": True, "max_length": workload.padded_length, "threshold": workload.threshold}
    return SkimEngine(workload.model, **options).predict_tokenized(workload.examples)


def _masked(workload: Workload, batch_size: int) -> Predictions:
    """The same by masks, padded to few lengths."""
    graph, params = nnx.split(workload.model)
    buckets = effective_buckets(DataConfig().length_buckets, workload.padded_length)
    batches = EvaluationBatches(workload.examples, batch_size, buckets, 0)
    return masked.predict(masked.evaluation_step(graph, depths=True), params, batches, len(workload.examples), workload.threshold)


def _clock(contender: Contender, seconds: Rounds, examples: int) -> dict[str, Any]:
    rounds = seconds[str(contender)]
    median = statistics.median(rounds)
    entry: dict[str, Any] = {"seconds": median, "seconds_of_rounds": rounds, "examples_per_second": examples / median}
    if contender.skims:
        entry["times_faster_than"] = {
            name: statistics.median(theirs / ours for theirs, ours in zip(other, rounds, strict=True))
            for name, other in seconds.items()
            if name != str(contender)
        }
    return entry


def _answers(workload: Workload, logits: np.ndarray, reference: np.ndarray | None) -> dict[str, Any]:
    """The metrics of a contender's answers, and the texts whose answer differs from that of the same weights in float32."""
    changed = None
    if reference is not None and not workload.model.arch.is_regression:
        changed = int((decisions(logits, False) != decisions(reference, False)).sum())
    return {"metrics": workload.metrics(logits), "predictions_changed": changed}


def disagreement(predictions: Predictions, exact: Predictions) -> dict[str, Any]:
    """Differences of compacted and masked computation. A decision within float noise of the threshold may flip between two programs.

    Logits are compared of texts without such decisions; None where there is none.
    """
    assert predictions.depths is not None
    flipped = np.array([int((ours != theirs).sum()) for ours, theirs in zip(predictions.depths, exact.by_text("depth"), strict=True)])
    same = np.abs(predictions.logits - exact.logits).max(axis=1)[flipped == 0]
    return {"max_logit_difference": float(same.max()) if len(same) else None, "decisions_flipped": int(flipped.sum())}


def _show(repeats: int, seconds: Rounds) -> None:
    """Medians so far, the quickest contender first."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    texts = ", ".join(f"{name} {medians[name]:.3g} s" for name in sorted(medians, key=medians.__getitem__))
    tqdm.write(f"after round {len(next(iter(seconds.values())))} of {repeats}: {texts}", file=sys.stderr)


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.epilog = _FIELDS
    parser.add_argument("--model", required=True, help="folder of a skimming classifier or cross-encoder")
    parser.add_argument("--dense", required=True, help="folder of its dense model")
    parser.add_argument("--task", required=True, help=f"{labelled.TASKS}: its validation split")
    parser.add_argument("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets)")
    parser.add_argument("--examples", type=int, help="only this many, drawn by seed 0")
    parser.add_argument("--length", type=int, help="tokens read of a text (default: the model's)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32], help="one record each; 1: texts come alone (default: 32)")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these, or patterns such as 'compacted:*'")
    parser.add_argument("--timed", type=int, metavar="EXAMPLES", help="of a round, others in each (default: half of all)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the records to this file")
    args = parser.parse_args(arguments)
    if min(args.repeats, args.examples or 1, args.timed or 1, *args.batch_size) < 1:
        raise ConfigError("--repeats, --examples, --timed and --batch-size must be at least 1")
    contenders, absent = chosen(args.contenders, jax.default_backend() == "cpu")
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    workload = Workload.load(args.model, args.dense, args.task, args.data_dir, args.examples, args.length)
    results: list[dict[str, Any]] = []
    for batch_size in args.batch_size:
        result = measure(workload, contenders, batch_size=batch_size, repeats=args.repeats, timed=args.timed)
        results.append(result | {"left_out": absent, "command": records.command()})
        print(json.dumps(results[-1], indent=2), flush=True)
        if args.json:  # after every batch size, so that an interrupted run leaves the first ones
            records.write(args.json, results)


if __name__ == "__main__":
    records.start(main)
