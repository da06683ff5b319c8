"""QNLI's validation split as a collection: questions, all sentences, and which sentence answers which question.

    python -m tools.qnli_collection runs/qnli --queries 500
    transkimmer evaluate --model DIR --queries runs/qnli/queries.jsonl --documents runs/qnli/documents.jsonl \\
        --judgements runs/qnli/qrels.txt

Questions that no sentence answers are left out.
"""

import argparse
import json
import pathlib

import numpy as np

from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.evaluation.retrieval import Judgements


def collection(count: int | None = None) -> tuple[dict[str, str], dict[str, str], Judgements]:
    """Queries and documents by their ids, and which answers which.

    count: queries, drawn by seed 0; None: all.
    """
    task = get_task(DataConfig(task="glue/qnli"))
    examples = load_split(task, "validation", DataConfig())
    sentences = examples.pairs or []
    documents = {text: f"d{place}" for place, text in enumerate(dict.fromkeys(sentences))}
    asked = np.flatnonzero(examples.labels == (task.label_names or ()).index("entailment"))
    if count is not None:
        asked = np.sort(np.random.default_rng(0).permutation(asked)[:count])
    queries = {f"q{row}": examples.texts[row] for row in asked}
    judgements = {f"q{row}": {documents[sentences[row]]: 1} for row in asked}
    return queries, {name: text for text, name in documents.items()}, judgements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="a folder")
    parser.add_argument("--queries", type=int, help="questions, drawn by seed 0 (default: all)")
    args = parser.parse_args()
    queries, documents, judgements = collection(args.queries)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, texts in (("queries", queries), ("documents", documents)):
        lines = [json.dumps({"id": key, "text": text}, ensure_ascii=False) for key, text in texts.items()]
        files.write_text(args.output / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
    judged = "".join(f"{query} 0 {document} 1\n" for query, answers in judgements.items() for document in answers)
    files.write_text(args.output / "qrels.txt", judged)


if __name__ == "__main__":
    main()
