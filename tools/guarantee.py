"""The share of simulated draws in which a guaranteed budget holds.

    python -m tools.guarantee runs/qnli --tolerance 0.01 0.02

All labelled texts of the task's test or validation split stand for the world. A draw is as many of them as a user might have, with
replacement; a quarter chooses and the others test, as in the command. The choice holds where what it loses on the whole world is at
most the tolerance. The record goes to results/guarantees/TASK_RISK.json.
"""

import pathlib

import numpy as np

from tools import records
from tools.row import Scored, read_runs
from transkimmer_jax.evaluation import guarantees
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.progress import tqdm

# Shares of FLOPs that are saved.
THRESHOLDS = np.arange(0.40, 0.86, 0.04)


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a run with several budgets")
    parser.add_argument("--dense", type=pathlib.Path, help="workdir of its dense run (default: the recipe's)")
    parser.add_argument("--tolerance", type=float, nargs="+", required=True, help="of the risk, one or several")
    parser.add_argument("--risk", choices=("accuracy", "disagreement"), default="accuracy")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--texts", type=int, default=2000, help="of a draw (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--output", type=pathlib.Path, default=records.RESULTS / "guarantees", help="a folder")
    args = parser.parse_args(arguments)
    run, dense = read_runs(args.run, args.dense)
    scored = Scored.load(dense)
    labels = scored.prepared.labels
    reference = SkimEngine.from_pretrained(dense.model).predict_tokenized(scored.prepared.tokens).logits.argmax(axis=1)
    engine = SkimEngine.from_pretrained(run.model)
    losses, savings = [], []
    for threshold in tqdm(THRESHOLDS, desc="answering", unit=" thresholds"):
        seen = scored.evaluate(engine, float(threshold))
        losses.append(guarantees.losses_of(args.risk, seen.predictions.logits.argmax(axis=1), reference, labels))
        savings.append(seen.flops_vs_unpadded)
    world = np.stack(losses)
    risks = world.mean(axis=1)
    found = []
    for tolerance in args.tolerance:
        rng = np.random.default_rng(0)
        chosen = []
        for _ in tqdm(range(args.draws), desc="drawing", unit=" draws"):
            draw = world[:, rng.integers(len(labels), size=args.texts)]
            choosing, testing = np.split(np.arange(args.texts), [args.texts // 4])
            chosen.append(guarantees.tested(args.risk, draw, choosing, testing, tolerance, args.confidence)[0])
        picked = np.array([count - 1 for count in chosen if count])
        found.append({
            "task": scored.task.name, "split": scored.split, "examples": len(labels), "risk": args.risk, "tolerance": tolerance,
            "confidence": args.confidence, "texts": args.texts, "draws": args.draws, "certified": len(picked),
            "held": int(np.sum(risks[picked] <= tolerance)) + args.draws - len(picked),
            "median_saving": float(np.median(np.array(savings)[picked])) if len(picked) else None,
            "best_saving": max((saving for saving, risk in zip(savings, risks, strict=True) if risk <= tolerance), default=None),
            "curve": [
                {"threshold": float(threshold), "risk": float(risk), "flops_vs_unpadded": saving}
                for threshold, risk, saving in zip(THRESHOLDS, risks, savings, strict=True)
            ],
            "commands": [*run.commands, records.command()],
        })  # fmt: skip
    records.write(args.output / f"{scored.task.name.rpartition('/')[2]}_{args.risk}.json", found)
    for record in found:
        print({name: value for name, value in record.items() if name not in ("curve", "commands")})


if __name__ == "__main__":
    records.start(main)
