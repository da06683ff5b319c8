"""Make the record of one finished run beside its dense model: points lost at every budget, and the clock.

    transkimmer train --config configs/glue_mrpc.py --workdir runs/mrpc
    python -m tools.row runs/mrpc
    python -m tools.row runs/mrpc_static --dense runs/mrpc --no-clock

The first run is a recipe, with a dense run and a skimming one. The second is a single run: a skimming one, by `train` or `distil`, or a
static student of the same teacher and texts. The compacted engine scores both models on the test split if its labels are known, else on
the validation split. A run with `skim.levels` is scored at each of its budgets.

The record goes to results/rows/TASK_BACKBONE_SEED[_LABEL].json; tools/tables.py and tools/charts.py read all records there. Values are
between 0 and 1. For the clock all models and budgets take turns in this process, on texts of the same split.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tools import records
from tools.records import command, portable, processor
from transkimmer_jax import config as configs
from transkimmer_jax.config import Config
from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.data.examples import subsample
from transkimmer_jax.data.prepared import Prepared, prepare
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import TEXTS, Task, get_task
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation.clock import interleaved, samples
from transkimmer_jax.evaluation.summary import SplitEvaluation, summarize
from transkimmer_jax.inference.engine import SkimEngine

# A part of IMDB's 25,000 test reviews is enough; so are a few hundred texts for the clock, and of long ones fewer.
EXAMPLES = {"imdb_reviews": 2500}
TIMED = {"imdb_reviews": 128}
_MOST_TIMED = 512
_EXACT = ("onnxruntime", "float32")  # scores
_CLOCKED = (_EXACT, ("onnxruntime", "int8"))  # tools/benchmark.py times the other runtimes


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished single run: its folder, its config, and what `result.json` says."""

    folder: pathlib.Path
    config: Config
    result: dict[str, Any]

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Run":
        """Raises `ConfigError` where no run has ended in the folder."""
        values, result = (folder / name for name in ("config.json", "result.json"))
        if not result.is_file():
            raise ConfigError(f"{folder} holds no finished run: transkimmer train --workdir {folder} goes on with it")
        return cls(folder, configs.from_dict(_read(values)), _read(result))

    @property
    def model(self) -> pathlib.Path:
        return self.folder / "model"

    @property
    def commands(self) -> list[str]:
        """What made its model: those of the run that it starts from, where that is one, and its own. Both runs of a recipe have one."""
        first = [] if self.before is None else self.before.commands
        return list(dict.fromkeys([*first, portable(self.result["command"])]))

    @property
    def seconds(self) -> float:
        """How long it trained, with the run that it starts from, where that is one."""
        return self.result["seconds"] + (0.0 if self.before is None else self.before.seconds)

    @functools.cached_property
    def before(self) -> "Run | None":
        """The run whose model it starts from; None: it starts from no run's."""
        folder = pathlib.Path(self.config.model.pretrained).parent
        return Run.read(folder) if (folder / "result.json").is_file() else None

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """Shares of the dense FLOPs that were asked for, falling; of a static student (None,)."""
        return self.config.skim.targets if self.config.skim.enabled else (None,)

    def threshold(self, budget: float | None) -> float | None:
        """At which its model spends a budget; None: the model's own."""
        return 1.0 - budget if self.config.skim.trained_levels and budget is not None else None

    def described(self) -> list[tuple[str, float | None]]:
        """What its model is called at each of its budgets, and the threshold there."""
        part = self.config.model.part
        if not self.config.skim.enabled:
            return [("dense" if part is None else f"static student, {part}", None)]
        return [(f"student, {budget:.0%} of FLOPs", self.threshold(budget)) for budget in self.config.skim.targets]


def read_runs(workdir: pathlib.Path, dense: pathlib.Path | None) -> tuple[Run, Run]:
    """The run that a row is of, and its dense run.

    workdir: of a recipe, or of a single run. dense: of the dense run of a single one, or of a recipe that has it.

    Raises:
      ConfigError: a run is missing, not finished, or of another task or seed than the other.
    """
    if (workdir / "skimming").is_dir():
        ours, theirs = Run.read(workdir / "skimming"), Run.read(dense or workdir / "dense")
    elif dense is None:
        raise ConfigError(f"{workdir} holds a single run: give --dense, the workdir of its dense run")
    else:
        ours, theirs = Run.read(workdir), Run.read(dense / "dense" if (dense / "dense").is_dir() else dense)
    if theirs.config.skim.enabled or theirs.config.model.part is not None:
        raise ConfigError(f"--dense {theirs.folder} is no dense run of a whole model")
    if not ours.config.skim.enabled and ours.config.model.part is None:
        raise ConfigError(f"{ours.folder} skims nothing and leaves nothing out: a static student does, see model.layers")
    # Of texts alone the dense run, which is the teacher, says for what task.
    for name in ("seed",) if ours.config.data.task == TEXTS else ("task", "seed"):
        if ours.result[name] != theirs.result[name]:
            raise ConfigError(f"{ours.folder} has {name} {ours.result[name]}, {theirs.folder} has {name} {theirs.result[name]}")
    return ours, theirs


@dataclasses.dataclass(frozen=True)
class Scored:
    """The texts that models are scored on, as tokens. examples: how many of `split` they are; a question is read in one or more windows."""

    task: Task
    split: str
    prepared: Prepared
    examples: int

    @classmethod
    def load(cls, run: Run) -> "Scored":
        """Those of a run's task. Raises `ConfigError` for embedders, `DataError` for data that cannot be read."""
        task = get_task(run.config.data)
        if task.head == "sentence_embedding":
            raise ConfigError(f"{run.folder} is of an embedder: tools.embedders makes its record")
        name, split = next(iter((task.test_splits or task.validation_splits).items()))
        examples = subsample(load_split(task, split, run.config.data), EXAMPLES.get(task.name), seed=0)
        tokenizer = SkimEngine.from_pretrained(run.model).tokenizer
        return cls(task, name, prepare(task, examples, tokenizer, run.config.data.doc_stride), len(examples))

    def evaluate(self, engine: SkimEngine, threshold: float | None = None) -> SplitEvaluation:
        """What an engine's model does on them."""
        return summarize(engine.predict_tokenized(self.prepared.tokens, threshold=threshold), self.prepared.labels, self.task, engine.arch)

    def value(self, engine: SkimEngine, threshold: float | None = None) -> float:
        """The task's metric."""
        return self.evaluate(engine, threshold).metrics[self.task.primary_metric]


def curve(scored: Scored, run: Run, budgets: Sequence[float | None]) -> list[dict[str, Any]]:
    """What the run's model is worth at each budget, and what it spends there, by the engine in float32."""
    engine = _exact(run)
    points = []
    for budget in budgets:
        seen = scored.evaluate(engine, run.threshold(budget))
        points.append({
            "budget": budget, "flops_vs_unpadded": seen.flops_vs_unpadded, "flops_vs_padded": seen.flops_vs_padded,
            "value": seen.metrics[scored.task.primary_metric], "metrics": seen.metrics, "kept_per_layer": seen.kept_per_layer,
        })  # fmt: skip
    return points


def clock(
    scored: Scored, run: Run, dense: Run, record: dict[str, Any], ways: Sequence[tuple[str, str]], timed: int, batch: int, rounds: int
) -> dict[str, Any]:
    """By 'RUNTIME PRECISION': texts a second and the metric, of the dense model and at each budget of the record, all by turns.

    ways: runtimes and precisions. timed: texts of a round; of questions, windows. `times_dense` are medians of the ratios within a round,
    against the dense model of the same way, without padding.
    """
    budgets = [point["budget"] for point in record["curve"]]
    timed = min(timed, len(scored.prepared.tokens))
    parts = samples(scored.prepared.tokens, timed, rounds)
    entries: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[TokenizedExamples], Any]] = {}
    for runtime, precision in ways:
        options: dict[str, Any] = {"runtime": "onnx", "provider": runtime, "precision": precision, "batch_size": batch}
        way = f"{runtime} {precision}"
        reference, engine = (SkimEngine.from_pretrained(trained.model, **options) for trained in (dense, run))
        runs[f"{way} dense"] = reference.predict_tokenized
        if (runtime, precision) == _EXACT:
            values = [record["dense_value"], *(point["value"] for point in record["curve"])]
        else:
            values = [scored.value(reference), *(scored.value(engine, run.threshold(budget)) for budget in budgets)]
        entries[way] = {"dense": {"value": values[0]}, "curve": []}
        for budget, value in zip(budgets, values[1:], strict=True):
            runs[f"{way} {budget}"] = functools.partial(engine.predict_tokenized, threshold=run.threshold(budget))
            entries[way]["curve"].append({"budget": budget, "value": value})
    seconds = interleaved(runs, parts)
    for way, entry in entries.items():
        baseline = seconds[f"{way} dense"]
        entry["dense"]["texts_per_second"] = timed / statistics.median(baseline)
        for point in entry["curve"]:
            ours = seconds[f"{way} {point['budget']}"]
            point["texts_per_second"] = timed / statistics.median(ours)
            point["times_dense"] = statistics.median(theirs / mine for theirs, mine in zip(baseline, ours, strict=True))
    return {"clock": entries, "timed": timed, "batch_size": batch, "rounds": rounds, "cpu": processor()}


def _exact(run: Run) -> SkimEngine:
    return SkimEngine.from_pretrained(run.model, runtime="onnx", provider=_EXACT[0], precision=_EXACT[1])


def row(run: Run, dense: Run, scored: Scored, points: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """The record but for the clock."""
    reference = scored.evaluate(_exact(dense))
    return {
        "task": scored.task.name, "backbone": pathlib.PurePath(dense.config.model.pretrained.rpartition(":")[2]).name,
        "seed": run.result["seed"], "label": label, "kind": "skimming" if run.config.skim.enabled else "static",
        "metric": scored.task.primary_metric, "split": scored.split, "examples": scored.examples,
        "dense_value": reference.metrics[scored.task.primary_metric], "dense_metrics": reference.metrics, "curve": points,
        "layers": len(run.result["kept_per_layer"]), "dense_layers": len(dense.result["kept_per_layer"]), "unlabelled": _unlabelled(run),
        **{name: run.result[name] for name in ("steps", "best_step", "seconds", "device")},
        "dense_steps": dense.result["steps"], "dense_seconds": dense.result["seconds"], "command": portable(run.result["command"]),
        "dense_command": portable(dense.result["command"]), "row_command": command(),
    }  # fmt: skip


def _unlabelled(run: Run) -> int | None:
    """The texts that the teacher alone has labelled; None where their file is gone since."""
    total = 0
    for path in (*run.config.data.text_files, *filter(None, [run.config.distill.unlabelled_file])):
        if not pathlib.Path(path).is_file():
            print(f"{path} is not here: the record does not say how many texts only the teacher has labelled", file=sys.stderr)
            return None
        with open(path, "rb") as file:  # str.splitlines would also split a text at U+0085 or U+2028
            total += sum(1 for _ in file)
    return total


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a finished recipe, or of a single run")
    parser.add_argument("--dense", type=pathlib.Path, help="workdir of a single run's dense run, or of the recipe that has it")
    parser.add_argument("--label", help="of a variant (default: none; 'static' and its sizes for static students)")
    parser.add_argument("--budgets", type=float, nargs="+", default=[], help="further ones, between those that the run was trained for")
    parser.add_argument("--no-clock", action="store_true", help="do not time it")
    parser.add_argument("--timed", type=int, help=f"texts of a round of the clock (default: {_MOST_TIMED}, of IMDB fewer)")
    parser.add_argument("--batch-size", type=int, default=32, help="of the clock (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the clock (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=records.RESULTS / "rows", help="a folder")
    args = parser.parse_args(arguments)
    run, dense = read_runs(args.run, args.dense)
    if args.budgets and not run.config.skim.trained_levels:
        raise ConfigError(f"{run.folder} was not trained for several budgets: --budgets are for runs with skim.levels")
    scored = Scored.load(dense)
    budgets = sorted({*run.budgets, *args.budgets}, reverse=True) if args.budgets else run.budgets
    model = run.config.model
    sizes = "x".join(f"{size:g}" for size in (model.layer_count, model.intermediate_size) if size is not None)
    label = args.label or ("" if run.config.skim.enabled else f"static{sizes}")
    record = row(run, dense, scored, curve(scored, run, budgets), label)
    if not args.no_clock:
        timed = args.timed or TIMED.get(scored.task.name, _MOST_TIMED)
        record |= clock(scored, run, dense, record, _CLOCKED, timed, args.batch_size, args.rounds)
    name = "_".join(filter(None, [record["task"].rpartition("/")[2], record["backbone"], str(record["seed"]), label]))
    records.write(args.output / f"{name}.json", record, records.Row)
    print(f"{args.output / name}.json: dense {record['dense_value']:.4f}")
    for point in record["curve"]:
        print(f"  {point['flops_vs_unpadded']:.2f}x fewer FLOPs: {point['value']:.4f} ({point['value'] - record['dense_value']:+.4f})")


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    records.start(main)
