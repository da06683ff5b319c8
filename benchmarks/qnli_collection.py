"""QNLI's validation split as a collection: questions, all sentences, and which sentence answers which question.

    python benchmarks/qnli_collection.py runs/qnli --queries 500
    transkimmer retrieve --model DIR --queries runs/qnli/queries.jsonl --documents runs/qnli/documents.jsonl \\
        --judgements runs/qnli/qrels.txt

Questions that no sentence answers are left out. training_pairs.jsonl has the pairs of the training split, without what their labels say.
"""

import argparse
import json
import pathlib

import numpy as np

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="a folder")
    parser.add_argument("--queries", type=int, help="questions, drawn by seed 0 (default: all)")
    args = parser.parse_args()
    task = get_task(DataConfig(task="glue/qnli"))
    examples = load_split(task, "validation", DataConfig())
    sentences = list(dict.fromkeys(examples.pairs or []))
    number = {text: place for place, text in enumerate(sentences)}
    entailment = (task.label_names or ()).index("entailment")
    asked = np.flatnonzero(examples.labels == entailment)
    if args.queries is not None:
        asked = np.sort(np.random.default_rng(0).permutation(asked)[: args.queries])
    args.output.mkdir(parents=True, exist_ok=True)
    queries = [{"id": f"q{row}", "text": examples.texts[row]} for row in asked]
    _write(args.output / "queries.jsonl", queries)
    _write(args.output / "documents.jsonl", [{"id": f"d{place}", "text": text} for text, place in number.items()])
    judged = "".join(f"q{row} 0 d{number[(examples.pairs or [])[row]]} 1\n" for row in asked)
    files.write_text(args.output / "qrels.txt", judged)
    training = load_split(task, task.train_split, DataConfig())
    pairs = zip(training.texts, training.pairs or [], strict=True)
    _write(args.output / "training_pairs.jsonl", [{"question": question, "sentence": sentence} for question, sentence in pairs])


def _write(path: pathlib.Path, records: list[dict[str, str]]) -> None:
    files.write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


if __name__ == "__main__":
    main()
