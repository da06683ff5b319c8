"""Make one row of the table of docs/results.md: train the dense model, then the skimming one from it, score both and time them.

    python benchmarks/row.py glue/mrpc [--backbone minilm-6l --target 0.28 --seed 0]
    python benchmarks/row.py glue/sst2 --sentences 100000
    python benchmarks/row.py glue/stsb --pairs 10000 --steps 1432
    python benchmarks/row.py glue/sst2 --layers 4

Both are scored by the compacted engine: on the test split where its labels are known, on which nothing was chosen, else on the
validation split. Everything is kept below --workdir, and what is there is not made again: the same command goes on where it stopped.
The record goes to results/rows/, and benchmarks/tables.py makes the table of what lies there.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import unlabelled
from record import circumstances, clock

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import get_task

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task is trained, the same for all seeds and targets. Fields of the config, without '--config.'."""

    config: str
    dense: tuple[str, ...]
    skim: tuple[str, ...]
    both: tuple[str, ...] = ()


# Of a few thousand texts the dense model makes six passes at 1e-4; of SST-2's 67,349 fewer at 5e-5. Skimming starts from there at 5e-5,
# and takes longer: its loss goes on falling long after the target is reached.
_SMALL = ("optimizer.learning_rate=1e-4", "train.epochs=6"), ("optimizer.learning_rate=5e-5", "train.epochs=8")
_LARGE = ("optimizer.learning_rate=5e-5", "train.epochs=2"), ("optimizer.learning_rate=5e-5", "train.epochs=1")
_LONG = ("optimizer.learning_rate=1e-4", "train.epochs=2"), ("optimizer.learning_rate=5e-5", "train.epochs=2")
# A steeper plan, in the hope that twelve layers can afford to read more in the first ones; docs/results.md says that they cannot.
_DEEP = ("optimizer.learning_rate=5e-5", "train.epochs=1"), ("optimizer.learning_rate=5e-5", "train.epochs=1", "skim.steepness=1")
_PART = ("data.max_length=256", "data.train_examples=3000", "data.eval_examples=1000")
RECIPES = {
    ("glue/cola", "minilm-6l"): Recipe("glue_cola", *_SMALL),
    ("glue/mrpc", "minilm-6l"): Recipe("glue_mrpc", *_SMALL),
    ("glue/rte", "minilm-6l"): Recipe("glue_rte", *_SMALL),
    ("glue/stsb", "minilm-6l"): Recipe("glue_stsb", *_SMALL),
    ("glue/wnli", "minilm-6l"): Recipe("glue_wnli", *_SMALL),
    ("glue/sst2", "minilm-6l"): Recipe("glue_sst2", *_LARGE),
    ("glue/qnli", "minilm-6l"): Recipe("glue_qnli", *_LONG),
    ("glue/sst2", "e5-small-12l"): Recipe("glue_sst2", *_DEEP),
    # In parts, since the temporaries of a whole batch of twelve layers would be more than the process keeps (memory.py).
    ("glue/qnli", "e5-small-12l"): Recipe("glue_qnli", *_LONG, ("optimizer.accumulation=2",)),
    ("imdb_reviews", "minilm-6l"): Recipe("imdb", *_LONG, _PART),
    ("imdb_reviews", "e5-small-12l"): Recipe("imdb", _LONG[0], (*_LONG[1], "optimizer.accumulation=4"), _PART),
}
# Texts of a split that are scored and timed; a part of IMDB's is enough.
EXAMPLES = {"imdb_reviews": 2500}
TIMED = {"imdb_reviews": 256, "glue/qnli": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted({task for task, _ in RECIPES}))
    backbones = sorted({backbone for _, backbone in RECIPES})
    parser.add_argument("--backbone", choices=backbones, default="minilm-6l", help="(default: %(default)s)")
    parser.add_argument("--target", type=float, default=0.28, help="share of the dense model's FLOPs to spend (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    texts_beside = parser.add_mutually_exclusive_group()
    texts_beside.add_argument(
        "--sentences", type=int, default=0, help="so many of IMDB's, without labels, beside the task's texts; for tasks of single texts"
    )
    texts_beside.add_argument(
        "--pairs", type=int, default=0, help="so many of other tasks, without labels, beside the task's; for tasks of pairs"
    )
    parser.add_argument("--steps", type=int, help="of the skimming model (default: the recipe's passes over all of its texts)")
    parser.add_argument("--layers", type=int, help="of the dense model's, the first that the skimming one has (default: all)")
    parser.add_argument("--no-clock", action="store_true", help="do not time it")
    parser.add_argument("--batch-size", type=int, default=32, help="of the timing (default: %(default)s)")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs", "rows"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("results", "rows"))
    args = parser.parse_args()
    if (args.task, args.backbone) not in RECIPES:
        parser.error(f"no recipe yet for {args.task} with {args.backbone}: add one to RECIPES")
    task = get_task(DataConfig(task=args.task))
    for flag, given, fits in (("--sentences", args.sentences, not task.is_pair), ("--pairs", args.pairs, task.is_pair)):
        if given and not fits:
            parser.error(f"{flag} does not go with {args.task}, a task of {'pairs' if task.is_pair else 'single texts'}")
    os.chdir(ROOT)
    short, unlabelled_count = args.task.rpartition("/")[2], args.sentences or args.pairs
    name = f"{short}_{args.backbone}"
    more = "".join(f"_{value}{unit}" for value, unit in ((unlabelled_count, ""), (args.steps, "steps"), (args.layers, "layers")) if value)
    dense, skim = args.workdir / f"{name}_{args.seed}_dense", args.workdir / f"{name}_{args.seed}_{args.target}{more}"
    recipe = RECIPES[args.task, args.backbone]
    _train(recipe, dense, args.seed, f"model.pretrained=packaged:{args.backbone}", "skim.enabled=false", *recipe.dense)
    start = [f"model.pretrained={dense}/model", f"distill.teacher={dense}/model"]
    if unlabelled_count:
        texts = args.workdir / (f"pairs_{short}_{args.pairs}.jsonl" if args.pairs else f"sentences_{args.sentences}.txt")
        if not texts.exists():
            if args.pairs:
                unlabelled.write_pairs(texts, task, args.pairs)
            else:
                unlabelled.write_sentences(texts, args.sentences)
        start.append(f"distill.unlabelled_file={texts}")
    length = (f"train.steps={args.steps}",) if args.steps else ()
    if args.layers:
        start.append(f"model.num_hidden_layers={args.layers}")
    _train(recipe, skim, args.seed, *start, "skim.predictor_size=96", f"skim.target={args.target}", *recipe.skim, *length)
    trained, before = (_read(run / "result.json") for run in (skim, dense))
    split = "test" if task.test_splits else "validation"
    scored, reference = (_evaluated(run, args.task, split) for run in (skim, dense))
    record = {
        **{name: trained[name] for name in ("task", "metric", "threshold", "steps", "best_step", "seconds", "seed", "device")},
        "backbone": args.backbone,
        "target": args.target,
        "unlabelled": unlabelled_count,
        "layers": args.layers,
        "budget_error": 1 / trained["flops_vs_unpadded"] / args.target - 1,
        "split": split,
        "examples": scored["examples"],
        **{name: scored[name] for name in ("value", "metrics", "kept_tokens", "kept_per_layer", "flops_vs_padded", "flops_vs_unpadded")},
        "dense_value": reference["value"],
        "dense_metrics": reference["metrics"],
        "validation_value": trained["value"],
        "dense_validation_value": before["value"],
        "fall": _fall(skim, next(iter(trained["metrics"])), trained["metric"]),
        "command": trained["command"],
        "dense_command": before["command"],
        "row_command": shlex.join(["python", "benchmarks/row.py", *sys.argv[1:]]),
        **circumstances(),
    }
    if not args.no_clock:
        record |= _timed(skim, dense, args.task, args.batch_size)
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / f"{name}_{args.target}_{args.seed}{more}.json", record)


def _train(recipe: Recipe, workdir: pathlib.Path, seed: int, *fields: str) -> None:
    if (workdir / "result.json").exists():
        return  # also where a field has another default since
    fields = (*fields, *recipe.both, "data.batch_size=32", f"train.seed={seed}")
    _run("train.py", "--config", f"configs/{recipe.config}.py", *(f"--config.{field}" for field in fields), "--workdir", str(workdir))


def _fall(run: pathlib.Path, split: str, metric: str) -> list[dict[str, float]]:
    """How the run did on its way from dense to the budget and after: every evaluation on validation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {"step": line["step"], "value": line[f"{split}/{metric}"], "flops_vs_unpadded": line[f"{split}/flops_vs_unpadded"]}
        for line in lines
        if f"{split}/{metric}" in line
    ]


def _evaluated(run: pathlib.Path, task: str, split: str) -> dict[str, Any]:
    path = run / f"evaluated_{split}.json"
    if not path.exists():
        examples = ("--examples", str(EXAMPLES[task])) if task in EXAMPLES else ()
        arguments = ("--model", str(run / "model"), "--task", task, "--split", split, *examples)
        _run("-m", "transkimmer_jax", "evaluate", *arguments, "--json", str(path))
    return _read(path)


def _timed(run: pathlib.Path, dense: pathlib.Path, task: str, batch_size: int) -> dict[str, Any]:
    path = run / f"timed_{batch_size}.json"
    if not path.exists():
        examples = ("--examples", str(TIMED[task])) if task in TIMED else ()
        folders = ("--model", str(run / "model"), "--dense", str(dense / "model"))
        arguments = (*folders, "--task", task, "--batch-size", str(batch_size), *examples, "--repeats", "3")
        contenders = ("--contenders", "masked", "dense_padded", "dense_bucketed")
        _run("-m", "transkimmer_jax", "benchmark", *arguments, *contenders, "--json", str(path))
    return clock(_read(path)[0])


def _run(*command: str) -> None:
    print("python", *command, flush=True)
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
