"""Make the record of an embedder and its students: similarity, retrieval, and the clock.

    transkimmer distil --teacher runs/minilm-6l --pooling mean --texts runs/texts.txt --target 0.4 --output runs/distilled
    python -m tools.embedders --name minilm-6l --dense runs/minilm-6l --pooling mean --students runs/distilled/model

Similarity is STS-B, its validation split for choices and its test split for numbers. Retrieval is QNLI's validation split: each question
that a sentence answers, against all sentences; once with both by one model, and once with sentences by the dense one, of which an index is
made but once. The clock is of QNLI's sentences, in batches of one length or so, all contenders by turns. Sentence-transformers is among
them where it is installed, in PyTorch, and by --onnx-python its ONNX backend. The record goes to results/embedders/, and
tools/tables.py makes the table of what lies there.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import statistics
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tools.qnli_collection import collection
from tools.record import circumstances, command_line, explained
from tools.row import Run
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.evaluation import retrieval, similarity
from transkimmer_jax.evaluation.clock import interleaved
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.vectors import nearest

_LIBRARY = "sentence-transformers"
_ONNX = f"{_LIBRARY}, ONNX"
MEASURES = ("recall@1", "recall@10", "mrr")


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


@contextlib.contextmanager
def onnx_backend(
    python: str, folder: str, pooling: str | None, max_length: int, texts: list[str], batch_size: int, precision: str
) -> Iterator[Callable[[int], None]]:
    """The same by the library's ONNX backend, in a process of an environment that has it: see library_onnx.py."""
    script = pathlib.Path(__file__).with_name("library_onnx.py")
    flags = {"--pooling": pooling or "mean", "--max-length": max_length, "--batch-size": batch_size, "--precision": precision}
    command = [python, str(script), folder, *(str(part) for flag in flags.items() for part in flag)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        given, said = process.stdin, process.stdout
        assert given is not None and said is not None

        def ask(line: str) -> None:
            with contextlib.suppress(BrokenPipeError):
                print(line, file=given, flush=True)
            if not said.readline():
                raise ConfigError(f"--onnx-python {python} cannot run {script.name}: its text says how to make the environment")

        try:
            ask(json.dumps(texts))
            yield lambda _: ask("again")
        finally:
            with contextlib.suppress(BrokenPipeError):  # what a process that is gone has not read
                given.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--onnx-python", metavar="PYTHON", help="of an environment for library_onnx.py, which is then timed too")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("results", "embedders"))
    args = parser.parse_args()
    pairs = {split: load_split(get_task(DataConfig(task="glue/stsb")), split, DataConfig()) for split in ("validation", "test")}
    asked, documents, judgements = collection()
    models = [("dense", args.dense, {"dense": True, "pooling": args.pooling})]
    rows, engines, commands, on_the_way = [], {}, [], []
    training_seconds = 0.0
    indexed: dict[str, np.ndarray] = {}  # by precision: the dense model's vectors of the documents
    for folder in args.students:
        run = Run.read(pathlib.Path(folder).parent)
        commands += run.commands
        training_seconds += run.seconds
        models += [(name, folder, {} if threshold is None else {"threshold": threshold}) for name, threshold in run.described()]
        if not run.config.skim.enabled:
            continue
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        own = f"student, {run.config.skim.target:.0%} of FLOPs"
        on_the_way += [
            {"model": own, "step": line["step"], **{name: line[f"validation/{name}"] for name in ("cosine", "flops_vs_unpadded")}}
            for line in lines
            if "validation/cosine" in line
        ]
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
                row |= {f"{prefix}_{measure}": scores[measure] for measure in MEASURES}
            row["qnli_flops_vs_unpadded"] = (vectors.dense_flops + queries.dense_flops) / (vectors.flops + queries.flops)
            row["queries_flops_vs_unpadded"] = queries.dense_flops / queries.flops
            row["kept_tokens"] = vectors.kept_tokens
            rows.append(row)
            print(row, flush=True)
    record = {
        "name": args.name, "rows": rows, "on_the_way": on_the_way, "training_seconds": training_seconds,
        "documents": len(documents), "queries": len(asked), "batch_size": args.batch_size,
        "max_length": args.max_length, "commands": [*commands, command_line("embedders")], **circumstances(),
    }  # fmt: skip
    if args.timed:
        timed = np.random.default_rng(0).permutation(len(documents))[: args.timed]
        texts = [args.prompt + list(documents.values())[row] for row in timed]
        # The runtime here makes no programs for shapes, so that rounds may be of the same texts.
        tokens = next(iter(engines.values())).tokenize(texts)
        runs: dict[str, Callable[[int], Any]]
        runs = {name: lambda _, engine=engine: engine.predict_tokenized(tokens) for name, engine in engines.items()}
        if importlib.util.find_spec("sentence_transformers"):
            runs[_LIBRARY] = by_sentence_transformers(args.dense, args.pooling, args.max_length, texts, args.batch_size)
        with contextlib.ExitStack() as processes:
            for precision in args.precisions if args.onnx_python is not None else ():
                runs[f"{_ONNX}:{precision}"] = processes.enter_context(
                    onnx_backend(args.onnx_python, args.dense, args.pooling, args.max_length, texts, args.batch_size, precision)
                )
            seconds = interleaved(runs, range(args.repeats + 1))
        speeds = {name: len(texts) / statistics.median(rounds) for name, rounds in seconds.items()}
        record["sentence_transformers_texts_per_second"] = speeds.get(_LIBRARY)
        record["sentence_transformers_onnx_texts_per_second"] = {
            precision: speeds[name] for precision in args.precisions if (name := f"{_ONNX}:{precision}") in speeds
        }
        for row in rows:
            row["texts_per_second"] = speeds[f"{row['model']}:{row['precision']}"]
    args.output.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output / f"{args.name}.json", record)


if __name__ == "__main__":
    with explained():
        main()
