"""Time students of several shapes at one budget, before any of them is trained.

    python -m tools.shapes runs/sst2_dense/model --task glue/sst2 --max-length 64 --shapes 4x512 3x1024 --ways onnxruntime:int8

A shape is so many of the dense model's layers, with so many neurons in each feed-forward block: 3x1024. At a budget the fewer layers or
neurons, the more tokens stay. What that loses only training tells. What it takes does not depend on the weights: here they are random, one
predictor decides before the first layer, and its threshold is fitted so that the texts of the task cost the budget.

The record goes to results/shapes/TASK.json; tools/tables.py makes a table of all records there. All shapes and the dense model take
turns in this process.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.optimize
from flax import nnx

from tools.measurement import processor
from tools.record import circumstances, command_line, explained
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data import pipeline
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.examples import subsample
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation.clock import calls, interleaved, samples
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.models import heads
from transkimmer_jax.models.architecture import SkimArchitecture, fresh_predictor_size
from transkimmer_jax.models.pretrained import TranskimmerPreTrainedModel

_FITTED = 256  # texts on which thresholds are fitted
_FARTHEST = 64.0  # beyond all margins


def shape(text: str) -> tuple[int, int]:
    """Layers and neurons of '3x1024'. Raises `argparse.ArgumentTypeError`."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no LAYERSxNEURONS, such as 3x1024")
    return int(match[1]), int(match[2])


def student(dense: TranskimmerPreTrainedModel, layers: int, neurons: int) -> TranskimmerPreTrainedModel:
    """A model of that shape with random weights, whose first layer alone has a predictor.

    Raises:
      ConfigError: more layers or neurons than the dense model has.
    """
    arch = dense.arch
    if not (1 <= layers <= arch.num_hidden_layers and 1 <= neurons <= arch.intermediate_size):
        raise ConfigError(f"{layers}x{neurons} is no part of the dense model, which has {arch.num_hidden_layers}x{arch.intermediate_size}")
    part = dataclasses.replace(
        arch,
        num_hidden_layers=layers,
        intermediate_size=neurons,
        dense_layers=arch.num_hidden_layers,
        dense_intermediate=arch.intermediate_size,
        skim=SkimArchitecture(fresh_predictor_size(arch.hidden_size), layers=(0,)),
    )
    return type(dense)(part, rngs=nnx.Rngs(0))


def fitted(engine: SkimEngine, examples: TokenizedExamples, budget: float) -> float | None:
    """The threshold at which the texts cost the budget within half a percent; None where they cost less with nothing skimmed."""

    def excess(threshold: float) -> float:
        spent = 1 / engine.predict_tokenized(examples, threshold=threshold).flops_vs_unpadded(engine.arch)
        return 0.0 if abs(spent - budget) <= 0.005 * budget else spent - budget

    if excess(-_FARTHEST) < 0:
        return None
    if excess(_FARTHEST) > 0:
        raise ConfigError(f"position 0 alone costs more than {budget:g} of the dense model: raise --budget")
    # Margins that nobody has trained lie close together, where methods that interpolate find nothing.
    return scipy.optimize.bisect(excess, -_FARTHEST, _FARTHEST, xtol=1e-9)


def measure(
    dense: TranskimmerPreTrainedModel,
    shapes: Sequence[tuple[int, int]],
    examples: TokenizedExamples,
    *,
    ways: Sequence[tuple[str, str]],
    batch_sizes: Sequence[int],
    budget: float,
    timed: int,
    rounds: int,
    max_length: int,
) -> list[dict[str, Any]]:
    """An entry for each shape, see `results/shapes/`. ways: runtimes and precisions. `times_dense` has, by 'RUNTIME PRECISION' and batch
    size, the median of the ratios within a round, against the dense model of the same way, without padding.

    Raises:
      ConfigError: as `student`, or a shape that costs less than the budget with nothing skimmed.
    """
    students = [student(dense, layers, neurons) for layers, neurons in shapes]
    sample = examples.take(np.arange(min(_FITTED, len(examples))))
    entries: list[dict[str, Any]] = [
        {"layers": layers, "neurons": neurons, "times_dense": {f"{way} {kind}": {} for way, kind in ways}} for layers, neurons in shapes
    ]
    thresholds = []
    for model, entry in zip(students, entries, strict=True):
        engine = SkimEngine(model, runtime="onnx", max_length=max_length)
        threshold = fitted(engine, sample, budget)
        if threshold is None:
            raise ConfigError(f"{entry['layers']}x{entry['neurons']} costs less than {budget} with nothing skimmed: lower --budget")
        answers = engine.predict_tokenized(examples, threshold=threshold)
        entry["flops_vs_unpadded"] = answers.flops_vs_unpadded(model.arch)
        entry["kept_tokens"] = float(answers.kept[0].sum() / answers.lengths.sum())
        thresholds.append(threshold)
    parts = samples(examples, min(timed, len(examples)), rounds)
    for provider, precision in ways:
        for batch in batch_sizes:
            options: dict[str, Any] = {"runtime": "onnx", "provider": provider, "precision": precision, "max_length": max_length}
            runs: dict[str, Callable[[TokenizedExamples], Any]] = {"dense": _run(SkimEngine(dense, batch_size=batch, **options), batch)}
            for number, (model, threshold) in enumerate(zip(students, thresholds, strict=True)):
                runs[str(number)] = _run(SkimEngine(model, batch_size=batch, threshold=threshold, **options), batch)
            seconds = interleaved(runs, parts)
            for number, entry in enumerate(entries):
                ratios = (theirs / ours for theirs, ours in zip(seconds["dense"], seconds[str(number)], strict=True))
                entry["times_dense"][f"{provider} {precision}"][str(batch)] = statistics.median(ratios)
    return entries


def _run(engine: SkimEngine, batch: int) -> Callable[[TokenizedExamples], Any]:
    return lambda examples: [engine.predict_tokenized(call) for call in calls(examples, batch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", metavar="DIR", help="the dense model")
    parser.add_argument("--task", required=True, help="of which the texts are, as data.task; its validation or test split")
    parser.add_argument("--max-length", type=int, required=True, help="tokens of a text at most")
    parser.add_argument("--shapes", type=shape, nargs="+", required=True, metavar="LAYERSxNEURONS")
    parser.add_argument("--ways", nargs="+", default=["onnxruntime:int8"], metavar="RUNTIME:PRECISION", help="default: %(default)s")
    parser.add_argument("--budget", type=float, default=0.285, help="share of the dense FLOPs; default: %(default)s")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 32], help="default: %(default)s")
    parser.add_argument("--examples", type=int, default=1000, help="texts to draw from; default: %(default)s")
    parser.add_argument("--timed", type=int, default=256, help="texts of a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("results", "shapes"), metavar="DIR", help="default: %(default)s"
    )
    args = parser.parse_args()
    with explained():
        task = get_task(DataConfig(task=args.task, max_length=args.max_length))
        split = next(iter((task.test_splits or task.validation_splits).values()))
        texts = subsample(load_split(task, split, DataConfig(task=args.task)), args.examples, seed=0)
        examples = prepare(task, texts, pipeline.load_tokenizer(args.dense), DataConfig().doc_stride).tokens
        dense = heads.load(pathlib.Path(args.dense), dense=True, complete=True)
        ways = [(provider, precision) for provider, _, precision in (way.partition(":") for way in args.ways)]
        entries = measure(
            dense,
            args.shapes,
            examples,
            ways=ways,
            batch_sizes=args.batch_size,
            budget=args.budget,
            timed=args.timed,
            rounds=args.rounds,
            max_length=args.max_length,
        )
        record = {
            "task": task.name,
            "max_length": args.max_length,
            "budget": args.budget,
            "hidden_size": dense.arch.hidden_size,
            "layers_dense": dense.arch.num_hidden_layers,
            "neurons_dense": dense.arch.intermediate_size,
            "shapes": entries,
            "timed": args.timed,
            "rounds": args.rounds,
            "cpu": processor(),
            **circumstances(),
            "command": command_line("shapes"),
        }
        args.output.mkdir(parents=True, exist_ok=True)
        files.write_json(args.output / f"{task.name.rpartition('/')[2]}.json", record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
