"""Make the record of an embedder and its students: similarity, retrieval, and the clock.

    transkimmer distil --teacher models/minilm-6l --pooling mean --texts runs/texts.txt --target 0.4 --output runs/distilled
    python -m tools.embedders --name minilm-6l --dense models/minilm-6l --pooling mean --students runs/distilled/model

Similarity is STS-B, its validation split for choices and its test split for numbers. Retrieval is QNLI's validation split: each question
that a sentence answers, against all sentences. It is measured with one model for both, and with the dense model for the sentences. For the
clock all models, and sentence-transformers where it is installed, encode QNLI's sentences by turns. The record goes to results/embedders/.
"""

import importlib.util
import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from tools import records
from tools.row import Run
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.evaluation import retrieval, similarity
from transkimmer_jax.evaluation.clock import interleaved
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.vectors import nearest

_LIBRARY = "sentence-transformers"
_MEASURES = ("recall@1", "recall@10", "mrr")


def collection(count: int | None = None) -> tuple[dict[str, str], dict[str, str], retrieval.Judgements]:
    """QNLI's validation split as queries and documents by their ids, and the document that answers each query.

    count: queries, drawn by seed 0; None: all that a sentence answers.
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


def by_sentence_transformers(
    folder: str, pooling: str | None, max_length: int, texts: list[str], batch_size: int
) -> Callable[[int], np.ndarray]:
    """A function that computes the teacher's vectors [N, H] of texts in PyTorch, by sentence-transformers."""
    import sentence_transformers
    from sentence_transformers import models

    encoder = models.Transformer(folder, max_seq_length=max_length)
    pooled = models.Pooling(encoder.get_embedding_dimension(), pooling_mode=pooling or "mean")
    model = sentence_transformers.SentenceTransformer(modules=[encoder, pooled], device="cpu")
    return lambda _: model.encode(texts, batch_size=batch_size, show_progress_bar=False)


def progress_of(run: Run) -> list[dict[str, Any]]:
    """Cosine with the teacher and FLOPs of a skimming run, at each of its evaluations."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    name = f"student, {run.config.skim.target:.0%} of FLOPs"
    return [
        {"model": name, "step": line["step"], **{measure: line[f"validation/{measure}"] for measure in ("cosine", "flops_vs_unpadded")}}
        for line in lines
        if "validation/cosine" in line
    ]


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--name", required=True, help="of the record")
    parser.add_argument("--dense", required=True, help="folder of the teacher")
    parser.add_argument("--students", nargs="*", default=[], help="model folders of students, skimming or static")
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], help="of the engines (default: %(default)s)")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="of a folder that does not say how it pools")
    parser.add_argument("--prompt", default="", help="stands before every text (default: nothing)")
    parser.add_argument("--max-length", type=int, default=128, help="tokens read of a text (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="of the clock (default: %(default)s)")
    parser.add_argument("--timed", type=int, default=1000, help="texts of the clock, 0 for no clock (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the clock (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=records.RESULTS / "embedders", help="a folder")
    args = parser.parse_args(arguments)
    pairs = {split: load_split(get_task(DataConfig(task="glue/stsb")), split, DataConfig()) for split in ("validation", "test")}
    asked, documents, judgements = collection()
    runs = {folder: Run.read(pathlib.Path(folder).parent) for folder in args.students}
    models = [("dense", args.dense, {"dense": True, "pooling": args.pooling})]
    for folder, run in runs.items():
        models += [(name, folder, {} if threshold is None else {"threshold": threshold}) for name, threshold in run.described()]
    rows, engines = [], {}
    indexed: dict[str, np.ndarray] = {}  # by precision: the dense model's vectors of the documents
    for name, folder, options in models:
        for precision in args.precisions:
            engine = SkimEngine.from_pretrained(
                folder, precision=precision, max_length=args.max_length, batch_size=args.batch_size, **options
            )
            engines[f"{name}:{precision}"] = engine
            row: dict[str, Any] = {"model": name, "precision": precision, "threshold": engine.threshold}
            for split, examples in pairs.items():
                firsts, seconds = (similarity.embed(engine, column, args.prompt) for column in (examples.texts, examples.pairs or []))
                row[f"stsb_{split}"] = similarity.correlations(firsts.values, seconds.values, examples.labels)["spearman"]
            row["stsb_flops_vs_unpadded"] = (firsts.dense_flops + seconds.dense_flops) / (firsts.flops + seconds.flops)
            vectors, queries = (similarity.embed(engine, texts, args.prompt) for texts in (list(documents.values()), list(asked.values())))
            for prefix, searched in (("qnli", vectors.values), ("queries", indexed.setdefault(precision, vectors.values))):
                ranked = nearest(queries.values, searched, 50)
                scores = retrieval.measures(retrieval.run_of(list(asked), list(documents), ranked), judgements)
                row |= {f"{prefix}_{measure}": scores[measure] for measure in _MEASURES}
            row["qnli_flops_vs_unpadded"] = (vectors.dense_flops + queries.dense_flops) / (vectors.flops + queries.flops)
            row["queries_flops_vs_unpadded"] = queries.dense_flops / queries.flops
            row["kept_tokens"] = vectors.kept_tokens
            rows.append(row)
            print(row, flush=True)
    record: dict[str, Any] = {
        "name": args.name, "rows": rows, "documents": len(documents), "queries": len(asked), "batch_size": args.batch_size,
        "on_the_way": [point for run in runs.values() if run.config.skim.enabled for point in progress_of(run)],
        "max_length": args.max_length, "training_seconds": sum(run.seconds for run in runs.values()),
        "commands": [*(command for run in runs.values() for command in run.commands), records.command()],
    }  # fmt: skip
    if args.timed:
        timed = np.random.default_rng(0).permutation(len(documents))[: args.timed]
        texts = [args.prompt + list(documents.values())[row] for row in timed]
        # The runtime here makes no programs for shapes, so that rounds may be of the same texts.
        tokens = next(iter(engines.values())).tokenize(texts)
        contenders: dict[str, Callable[[int], Any]]
        contenders = {name: lambda _, engine=engine: engine.predict_tokenized(tokens) for name, engine in engines.items()}
        if importlib.util.find_spec("sentence_transformers"):
            contenders[_LIBRARY] = by_sentence_transformers(args.dense, args.pooling, args.max_length, texts, args.batch_size)
        seconds = interleaved(contenders, range(args.repeats + 1))
        speeds = {name: len(texts) / statistics.median(rounds) for name, rounds in seconds.items()}
        record["sentence_transformers_texts_per_second"] = speeds.get(_LIBRARY)
        for row in rows:
            row["texts_per_second"] = speeds[f"{row['model']}:{row['precision']}"]
    records.write(args.output / f"{args.name}.json", record)


if __name__ == "__main__":
    records.start(main)
