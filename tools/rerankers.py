"""Make the record of a cross-encoder and its student behind an embedder: ranking, and milliseconds a query.

    transkimmer train --config configs/glue_qnli.py --config.skim.enabled=false --workdir runs/qnli_dense
    python -m tools.unlabelled neighbours runs/near_qnli.jsonl --task glue/qnli --count 30000
    transkimmer distil --teacher runs/qnli_dense/model --texts runs/near_qnli.jsonl --text-columns question sentence \\
        --target 0.4 0.5 0.285 --output runs/reranker
    python -m tools.rerankers --name qnli_minilm-6l --dense runs/qnli_dense/model --students runs/reranker/model

Queries and documents are QNLI's (tools/qnli_collection.py). The embedder finds candidates once, in float32; every model ranks the same
ones. All models and precisions take turns query by query in one process, and milliseconds are the median over queries. The record goes to
results/rerankers/.
"""

import argparse
import pathlib
import statistics
import time
from typing import Any

import numpy as np

from tools.qnli_collection import collection
from tools.record import circumstances, command_line, explained
from tools.row import Run
from transkimmer_jax.checkpoints import files
from transkimmer_jax.evaluation import retrieval
from transkimmer_jax.evaluation.clock import settle
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.vectors import nearest
from transkimmer_jax.progress import tqdm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the record")
    parser.add_argument("--embedder", default="packaged:minilm-6l", help="finds the candidates (default: %(default)s)")
    parser.add_argument("--dense", required=True, help="folder of the teacher")
    parser.add_argument("--students", nargs="+", required=True, help="model folders of students, skimming or static")
    parser.add_argument("--label", default="entailment", help="whose probability is the score (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=500, help="drawn by seed 0 (default: %(default)s)")
    parser.add_argument("--top", type=int, default=50, help="candidates of each query (default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], help="of the engines (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("results", "rerankers"))
    args = parser.parse_args()
    queries, documents, judgements = collection(args.queries)
    names, texts, asked = list(documents), list(documents.values()), list(queries.values())
    embedder = SkimEngine.from_pretrained(args.embedder, dense=True)
    candidates = nearest(*(embedder.encode(given, normalize_embeddings=True) for given in (asked, texts)), args.top)

    commands: list[str] = []
    models: list[tuple[dict[str, Any], SkimEngine]] = []
    for folder in [args.dense, *args.students]:
        run = Run.read(pathlib.Path(folder).parent)
        commands += [command for command in run.commands if command not in commands]
        for precision in args.precisions:
            engine = SkimEngine.from_pretrained(folder, precision=precision, dense=folder == args.dense)
            models += [({"model": name, "precision": precision, "threshold": threshold}, engine) for name, threshold in run.described()]
    milliseconds: list[list[float]] = [[] for _ in models]
    ranked: list[list[np.ndarray]] = [[] for _ in models]
    flops = np.zeros((len(models), 2))
    for query, numbers in zip(tqdm(asked, desc="ranking", unit=" queries"), candidates, strict=True):
        for place, (row, engine) in enumerate(models):
            before = engine.statistics.dense_flops, engine.statistics.flops
            settle()
            started = time.perf_counter()
            entries = engine.rank(query, [texts[number] for number in numbers], label=args.label, threshold=row["threshold"])
            milliseconds[place].append(1000 * (time.perf_counter() - started))
            ranked[place].append(numbers[[entry["corpus_id"] for entry in entries]])
            flops[place] += engine.statistics.dense_flops - before[0], engine.statistics.flops - before[1]

    def measured(order: Any) -> dict[str, float]:
        return retrieval.measures(retrieval.run_of(list(queries), names, order), judgements)

    rows = [
        row | measured(ranked[place])
        | {"flops_vs_unpadded": float(np.divide(*flops[place])), "milliseconds": statistics.median(milliseconds[place])}
        for place, (row, _) in enumerate(models)
    ]  # fmt: skip
    record = {
        "name": args.name, "rows": rows, "embedder": measured(candidates), "queries": len(queries), "documents": len(documents),
        "top": args.top, "commands": [*commands, command_line("rerankers")], **circumstances(),
    }  # fmt: skip
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / f"{args.name}.json", record)
    for row in rows:
        print(row)


if __name__ == "__main__":
    with explained():
        main()
