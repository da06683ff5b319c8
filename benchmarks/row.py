"""Make the record of one row of the table of docs/results.md: score both models of a finished recipe and time them.

    transkimmer train --config configs/glue_mrpc.py --workdir runs/mrpc
    python benchmarks/row.py runs/mrpc

Both are scored by the compacted engine: on the test split where its labels are known, on which nothing was chosen, else on the
validation split. What is measured is kept in the run's folder and not measured again: the same command goes on where it stopped.
The record goes to results/rows/, and benchmarks/tables.py makes the table of what lies there.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any

from record import circumstances, clock

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.tasks import get_task

# Texts of a split that are scored and timed; a part of IMDB's is enough.
EXAMPLES = {"imdb_reviews": 2500}
TIMED = {"imdb_reviews": 256, "glue/qnli": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a recipe of configs/, on one of the tasks that have splits of their own")
    parser.add_argument("--no-clock", action="store_true", help="do not time it")
    parser.add_argument("--batch-size", type=int, default=32, help="of the timing (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("results", "rows"))
    args = parser.parse_args()
    if not (args.run / "result.json").exists():
        parser.error(f"{args.run} holds no finished recipe: run transkimmer train --config configs/... --workdir {args.run} first")
    result = _read(args.run / "result.json")
    if "dense" not in result:
        parser.error(f"{args.run} holds a single run, not a recipe with its dense model")
    config, dense_config = (_read(args.run / stage / "config.json") for stage in ("skimming", "dense"))
    task = get_task(DataConfig(task=result["task"]))
    split = "test" if task.test_splits else "validation"
    # The layers of the dense model that the skimming one has, None: all; and the texts that the teacher alone has labelled.
    layers, unlabelled_file = config["model"]["num_hidden_layers"], config["distill"]["unlabelled_file"]
    unlabelled = len(pathlib.Path(unlabelled_file).read_text(encoding="utf-8").splitlines()) if unlabelled_file else 0
    scored, reference = (_evaluated(args.run / stage, result["task"], split) for stage in ("skimming", "dense"))
    target, seed, backbone = config["skim"]["target"], result["seed"], dense_config["model"]["pretrained"].rpartition(":")[2]
    record = {
        **{name: result[name] for name in ("task", "metric", "threshold", "steps", "best_step", "device", "command")},
        "seconds": result["skimming"]["seconds"],
        "dense_seconds": result["dense"]["seconds"],
        "seed": seed,
        "backbone": backbone,
        "target": target,
        "unlabelled": unlabelled,
        "layers": layers,
        "budget_error": 1 / result["flops_vs_unpadded"] / target - 1,
        "split": split,
        "examples": scored["examples"],
        **{name: scored[name] for name in ("value", "metrics", "kept_tokens", "kept_per_layer", "flops_vs_padded", "flops_vs_unpadded")},
        "dense_value": reference["value"],
        "dense_metrics": reference["metrics"],
        "validation_value": result["value"],
        "dense_validation_value": result["dense"]["value"],
        "fall": _fall(args.run / "skimming", next(iter(result["metrics"])), result["metric"]),
        "row_command": f"{result['command']}\n{shlex.join(['python', 'benchmarks/row.py', *sys.argv[1:]])}",
        **circumstances(),
    }
    if not args.no_clock:
        record |= _timed(args.run / "skimming", args.run / "dense", result["task"], args.batch_size)
    steps = f"_{config['train']['steps']}steps" if config["train"]["steps"] else ""
    more = "".join(f"_{value}{unit}" for value, unit in ((unlabelled, ""), (layers, "layers")) if value)
    short = result["task"].rpartition("/")[2]
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / f"{short}_{backbone}_{target}_{seed}{steps}{more}.json", record)


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
        contenders = ("--contenders", *(f"{way}:onnxruntime:float32" for way in ("padded", "packed", "compacted")))
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
