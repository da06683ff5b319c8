"""Make the record of a cross-encoder and its student behind an embedder: ranking, and milliseconds a query.

    transkimmer train --config configs/glue_qnli.py --config.skim.enabled=false --workdir runs/qnli_dense
    python -m tools.unlabelled neighbours runs/near_qnli.jsonl --task glue/qnli --count 30000
    transkimmer distil --teacher runs/qnli_dense/model --texts runs/near_qnli.jsonl --text-columns question sentence \\
        --target 0.4 0.5 0.285 --output runs/reranker
    python -m tools.rerankers --name qnli_minilm-6l --dense runs/qnli_dense/model --students runs/reranker/model

Queries and documents are QNLI's. The embedder finds candidates once, in float32; every model ranks the same ones. Models and precisions
take turns query by query, and milliseconds are the median over queries. The record goes to results/rerankers/.
"""

import functools
import pathlib
import statistics
from typing import Any

import numpy as np

from tools import records
from tools.embedders import collection
from tools.row import Run
from transkimmer_jax.evaluation import retrieval
from transkimmer_jax.evaluation.clock import interleaved
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.vectors import nearest


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--name", required=True, help="of the record")
    parser.add_argument("--embedder", default="packaged:minilm-6l", help="finds the candidates (default: %(default)s)")
    parser.add_argument("--dense", required=True, help="folder of the teacher")
    parser.add_argument("--students", nargs="+", required=True, help="model folders of students, skimming or static")
    parser.add_argument("--label", default="entailment", help="its probability is the score (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=500, help="drawn by seed 0 (default: %(default)s)")
    parser.add_argument("--top", type=int, default=50, help="candidates of each query (default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], help="of the engines (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=records.RESULTS / "rerankers", help="a folder")
    args = parser.parse_args(arguments)
    queries, documents, judgements = collection(args.queries)
    names, texts, asked = list(documents), list(documents.values()), list(queries.values())
    embedder = SkimEngine.from_pretrained(args.embedder, dense=True)
    candidates = nearest(*(embedder.encode(given, normalize_embeddings=True) for given in (asked, texts)), args.top)
    runs = [Run.read(pathlib.Path(folder).parent) for folder in [args.dense, *args.students]]
    rows: list[dict[str, Any]] = []
    rankers: dict[str, functools.partial[None]] = {}
    orders = []

    def rank(place: int, engine: SkimEngine, order: np.ndarray, query: int) -> None:
        row, numbers = rows[place], candidates[query]
        before = engine.statistics.dense_flops, engine.statistics.flops
        entries = engine.rank(asked[query], [texts[number] for number in numbers], label=args.label, threshold=row["threshold"])
        order[query] = numbers[[entry["corpus_id"] for entry in entries]]
        row["dense_flops"] += engine.statistics.dense_flops - before[0]
        row["flops"] += engine.statistics.flops - before[1]

    for run in runs:
        for precision in args.precisions:
            engine = SkimEngine.from_pretrained(str(run.model), precision=precision, dense=run is runs[0])
            for name, threshold in run.described():
                orders.append(np.zeros_like(candidates))
                rankers[f"{name}:{precision}"] = functools.partial(rank, len(rows), engine, orders[-1])
                rows.append({"model": name, "precision": precision, "threshold": threshold, "dense_flops": 0.0, "flops": 0.0})
    seconds = interleaved(rankers, [0, *range(len(asked))])  # the first query warms up, too

    def measured(order: np.ndarray) -> dict[str, float]:
        return retrieval.measures(retrieval.run_of(list(queries), names, order), judgements)

    for row, order in zip(rows, orders, strict=True):
        row["flops_vs_unpadded"] = row.pop("dense_flops") / row.pop("flops")
        row["milliseconds"] = 1000 * statistics.median(seconds[f"{row['model']}:{row['precision']}"])
        row |= measured(order)
        print(row)
    records.write(args.output / f"{args.name}.json", {
        "name": args.name, "rows": rows, "embedder": measured(candidates), "queries": len(queries), "documents": len(documents),
        "top": args.top, "commands": list(dict.fromkeys([*(command for run in runs for command in run.commands), records.command()])),
    })  # fmt: skip


if __name__ == "__main__":
    records.start(main)
