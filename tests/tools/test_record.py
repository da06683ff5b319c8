"""What records and their tables call models, and how they count."""

import pathlib

from tools import row, tables
from transkimmer_jax.config import Config, override

ROW = {"model": "dense", "precision": "float32", "mrr": 0.7, "ndcg@10": 0.75, "flops_vs_unpadded": 1.0, "milliseconds": 300.0}
RERANKERS = {
    "rows": [ROW, ROW | {"model": "student, 40% of FLOPs", "mrr": 0.692, "flops_vs_unpadded": 2.5, "milliseconds": 120.0}],
    "embedder": {"mrr": 0.65, "ndcg@10": 0.7}, "queries": 500, "documents": 3911, "top": 50, "cores": 2, "commands": ["a", "b"],
}  # fmt: skip
DRAWS = {
    "task": "glue/qnli", "split": "validation", "examples": 5463, "risk": "accuracy", "tolerance": 0.02, "confidence": 0.95, "texts": 2000,
    "draws": 1000, "certified": 600, "held": 990, "median_saving": 1.9, "best_saving": 2.4, "commands": ["a"],
}  # fmt: skip


def described(**changes):
    return row.Run(pathlib.Path(), override(Config(), changes), {}).described()


def test_models_by_their_configs():
    """A dense one, a static student, a student for one budget at its own threshold, and one for several at theirs."""
    assert described(**{"skim.enabled": "false"}) == [("dense", None)]
    assert described(**{"skim.enabled": "false", "model.layers": "3"}) == [("static student, 3 layers", None)]
    assert described(**{"skim.target": "0.4"}) == [("student, 40% of FLOPs", None)]
    several = described(**{"skim.target": "0.4", "skim.levels": "0.5,0.25"})
    assert several == [("student, 50% of FLOPs", 0.5), ("student, 40% of FLOPs", 0.6), ("student, 25% of FLOPs", 0.75)]


def test_rerankers():
    said = tables.reranking([RERANKERS])
    assert "| student, 40% of FLOPs | float32 | 69.2 | 0.8 | 75.0 | 0.0 | 2.50x | 120 | 2.50x |" in said
    assert "500 queries, the first 50 of 3,911 documents each; the embedder alone: MRR 65.0, nDCG@10 70.0." in said


def test_embedder_headline():
    """All of int8, but for what is lost against dense float32; a student's row by what it saves."""
    dense = {
        "model": "dense", "precision": "float32", "qnli_recall@10": 0.9, "stsb_test": 0.8, "qnli_flops_vs_unpadded": 1.0,
        "stsb_flops_vs_unpadded": 1.0, "texts_per_second": 100.0,
    }  # fmt: skip
    float32 = dense | {"model": "student, 40% of FLOPs", "qnli_recall@10": 0.1, "qnli_flops_vs_unpadded": 2.5}
    middle = float32 | {
        "precision": "int8", "qnli_recall@10": 0.88, "stsb_test": 0.805, "stsb_flops_vs_unpadded": 2.25, "texts_per_second": 1200.4,
    }  # fmt: skip
    larger = middle | {"qnli_recall@10": 0.9, "qnli_flops_vs_unpadded": 2.0, "texts_per_second": 1000.0}
    smaller = middle | {"qnli_recall@10": 0.87, "qnli_flops_vs_unpadded": 3.5, "texts_per_second": 1600.0}
    rows = [dense, dense | {"precision": "int8", "qnli_recall@10": 0.89, "texts_per_second": 250.0}, smaller, float32, larger, middle]
    record = {"name": "tiny", "rows": rows, "sentence_transformers_texts_per_second": 40.0}
    timed = record | {"name": "small", "sentence_transformers_onnx_texts_per_second": {"float32": 50.0, "int8": 110.0}}
    *_, without, beside = tables.embedder_headline([record, timed]).splitlines()
    assert without == "| tiny | 0.0 at 2.00x | 2.0 at 2.50x | 3.0 at 3.50x | -0.5 at 2.25x | 1,200 | 250 |  | 40 |"
    commands = [
        "distil --config.model.layers=0,2 --config.model.intermediate_size=9 --config.skim.layers=0,1,2 --config.train.steps=40",
        "python",
    ]
    named = {"rows": [dense, *({**row, "precision": "float32"} for row in (middle, smaller, larger))], "commands": commands}
    *_, by_default, by_name = tables.embedder_variants([named | {"commands": ["distil", "python"]}, named]).splitlines()
    assert by_default == "| by default | by default | by default | 0.0 at 2.00x | 2.0 at 2.50x | 3.0 at 3.50x | -0.5 at 2.25x |"
    assert by_name.startswith("| 0,2 | 0,1,2 | 40 | 0.0 at 2.00x |")
    assert beside == "| small | 0.0 at 2.00x | 2.0 at 2.50x | 3.0 at 3.50x | -0.5 at 2.25x | 1,200 | 250 | 110 | 40 |"


def test_shapes():
    """A row a shape, a column a task, runtime and batch size."""
    times = {"onnxruntime int8": {"1": 1.9, "32": 2.7}}
    wide = {"layers": 3, "neurons": 1024, "kept_tokens": 0.84, "flops_vs_unpadded": 3.5, "times_dense": times}
    narrow = wide | {"layers": 4, "neurons": 512, "kept_tokens": 0.79, "times_dense": {"onnxruntime int8": {"1": 1.8, "32": 2.6}}}
    record = {
        "task": "glue/sst2", "budget": 0.285, "hidden_size": 384, "layers_dense": 6, "neurons_dense": 1536, "cores": 2, "cpu": "a CPU",
        "rounds": 7, "command": "python -m tools.shapes", "shapes": [wide, narrow],
    }  # fmt: skip
    other = record | {"task": "glue/qnli", "shapes": [wide | {"kept_tokens": 0.8}, narrow]}
    said = tables.shapes([record, other])
    assert "| layers | neurons | tokens kept | SST-2, onnxruntime int8, batch 1 | SST-2, onnxruntime int8, batch 32 | QNLI, " in said
    assert "| 3 | 1024 | 80-84% | 1.90x | 2.70x | 1.90x | 2.70x |" in said and "| 4 | 512 | 79% | 1.80x |" in said
    assert "28.5% of the FLOPs of 6 layers of H=384 with 1536 neurons, within 0.3%; 2 cores, a CPU; medians of 7 rounds." in said


def test_rerankers_in_words():
    quick = RERANKERS["rows"][1] | {"precision": "int8", "milliseconds": 40.2}
    said = tables.reranker_in_words([RERANKERS | {"rows": [*RERANKERS["rows"], ROW | {"precision": "int8", "milliseconds": 180.0}, quick]}])
    assert said == (
        "A cross-encoder's student that spends 2.5x fewer FLOPs has an MRR of 69.2, and its teacher 70.0.\n"
        "For 50 documents it takes 40 ms in int8. The teacher takes 180 ms, in float32 300 ms.\n"
    )


def test_guarantees():
    said = tables.guarantees([DRAWS])
    assert "| QNLI | accuracy lost | 2% | 2,000 | 60.0% | 99.0% | 1.90x | 2.40x |" in said
    assert "1,000 draws from 5,463 validation texts, at 95%." in said
