"""Make the committed record of a skimming run: its result, and its dense baseline's.

    python -m tools.record runs/mine --output results/mine.json
    python -m tools.record runs/sst2_skim --dense runs/sst2_dense --output results/sst2.json

The first is of a recipe's workdir, which holds its dense run. tools/tables.py makes the tables of the documents from such records.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import TranskimmerError


def circumstances() -> dict[str, Any]:
    """Where and from which code a record is made."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return {"cores": len(os.sched_getaffinity(0)), "commit": commit}


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ends the script with the one line of an error of this package instead of its traceback."""
    try:
        yield
    except TranskimmerError as error:
        sys.exit(f"error: {error}")


def portable(command: str) -> str:
    """A command without the folders of this machine: of an absolute path its last part is left, of a run's model the run's folder too."""
    return shlex.join(re.sub(r"(^|=)/(?:[^/]+/)*?([^/]+(?:/model)?)/?$", r"\1\2", word) for word in shlex.split(command))


def command_line(tool: str) -> str:
    """The portable command of this process, which runs `tool`."""
    return portable(shlex.join(["python", "-m", f"tools.{tool}", *sys.argv[1:]]))


def agreement(run: pathlib.Path, dense: pathlib.Path, file: pathlib.Path) -> dict[str, Any]:
    """Of the texts of a .txt file: the share to which two runs' models give one label, and the mean Kullback-Leibler divergence of the
    run's probabilities from the dense one's, in nats. It tells more than the labels do, of which most are the same."""
    import numpy as np
    from scipy.special import log_softmax

    from transkimmer_jax.data.records import read_records
    from transkimmer_jax.inference.engine import SkimEngine

    texts = [record["text"] for _, record in read_records(file)]
    ours, theirs = (
        log_softmax(np.stack([answer.logits for answer in SkimEngine.from_pretrained(folder / "model").predict(texts)]), axis=1)
        for folder in (run, dense)
    )
    return {
        "unseen_texts": len(texts),
        "agreement": float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        "divergence": float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="workdir of a recipe, or of a skimming run")
    parser.add_argument("--dense", type=pathlib.Path, help="workdir of the dense run with the same data and seed (default: the recipe's)")
    parser.add_argument("--texts", type=pathlib.Path, help=".txt of texts that neither has seen: how far do both say the same?")
    parser.add_argument("--what", default="", help="what sets the run apart, for the table")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    of_dense = args.dense or args.run / "dense"
    if not (of_dense / "result.json").exists():
        parser.error(f"{of_dense} holds no finished run: give --dense")
    result, dense = (json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (args.run, of_dense))
    result = {name: value for name, value in result.items() if name not in ("dense", "skimming")}
    if (result["task"], result["seed"]) != (dense["task"], dense["seed"]):
        parser.error(f"{args.run} is {result['task']}, seed {result['seed']}; {of_dense} is {dense['task']}, seed {dense['seed']}")
    record = {"what": args.what, **result, "dense_value": dense["value"], "dense_command": dense.get("command")}
    record |= {name: portable(record[name]) for name in ("command", "dense_command") if record[name]}
    record |= {name: pathlib.Path(record[name]).name for name in ("pretrained",) if record.get(name)}
    record |= {"dense_metrics": dense["metrics"], "dense_seconds": dense["seconds"]}
    record |= circumstances()
    if args.texts:
        record |= agreement(args.run, of_dense, args.texts)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output, record)


if __name__ == "__main__":
    main()
