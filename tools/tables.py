"""Write the tables of README.md and docs/ from the records below results/.

    python -m tools.tables [--check]

A table stands between `<!-- table: VIEW FILE.json ... -->` and `<!-- end -->`. Files are below results/ and may be patterns. A view is one
of those in `VIEWS`, here or in tools/columns.py. With --check nothing is written, and the status is 1 where a document and the records
disagree.
"""

import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tabulate import tabulate

from tools import columns, curves, effects, records
from tools.records import ROOT

Records = list[dict[str, Any]]
_TABLE = re.compile(r"(<!-- table: (?P<view>\w+) (?P<files>[^>]*?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
_BASELINE = "dense:onnxruntime:float32"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its head first, without the columns that are empty."""
    full = [column for column in zip(*rows, strict=True) if any(column[1:])]
    head, *body = zip(*full, strict=True)
    return tabulate(body, head, tablefmt="github", disable_numparse=True)


def _block(rows: Sequence[Sequence[str]], told: str, commands: Iterable[str]) -> str:
    """A table, a paragraph about it, and its commands."""
    return "\n".join([table(rows), "", f"{told} From:".lstrip(), "", "```", *dict.fromkeys(commands), "```", ""])


def _all_commands(records: Records) -> list[str]:
    return [command for record in records for command in record["commands"]]


def _ratio(record: dict[str, Any], faster: str, slower: str) -> float:
    """Speed of one contender over another: the median of the ratios in a round."""
    rounds = [record["contenders"][name]["seconds_of_rounds"] for name in (slower, faster)]
    return statistics.median(theirs / ours for theirs, ours in zip(*rounds, strict=True))


def _fastest(record: dict[str, Any], ways: tuple[str, ...]) -> str:
    speeds = {name: entry["examples_per_second"] for name, entry in record["contenders"].items() if name.startswith(ways)}
    return max(speeds, key=speeds.__getitem__)


def speeds(records: Records) -> str:
    """Texts a second of every contender at every batch size, and in brackets the speed over dense ONNX Runtime in float32.
    Answers are those of the record with the most texts."""
    judged = max(records, key=lambda record: record["examples"])
    rows = [["contender", *(f"batch {record['batch_size']}" for record in records), f"{judged['examples']:,} answers", "changed"]]
    for name, entry in judged["contenders"].items():
        cells = [f"{one['contenders'][name]['examples_per_second']:,.0f} ({_ratio(one, name, _BASELINE):.2f}x)" for one in records]
        metrics = ", ".join(f"{100 * value:.2f} {metric}" for metric, value in (entry["metrics"] or {}).items())
        changed = entry["predictions_changed"]
        rows.append([name, *cells, metrics, "" if changed is None else str(changed)])
    ratios = [_ratio(record, _fastest(record, ("compacted",)), _fastest(record, ("dense", "packed"))) for record in records]
    rows.append(["fastest skimming over fastest dense", *(f"{ratio:.2f}x" for ratio in ratios), "", ""])
    told = (
        f"{judged['workload']}, texts of at most {judged['length']} tokens ({judged['tokens'] / judged['examples']:.0f} on average), "
        f"{judged['layers']} of the dense model's {judged['layers_dense']} layers, H={judged['hidden_size']}, "
        f"{judged['flops_vs_unpadded']:.2f}x fewer FLOPs than unpadded dense, {judged['flops_vs_padded']:.2f}x than padded; "
        f"{judged['cores']} cores, {judged['cpu']}; medians of {judged['repeats']} rounds of "
        f"{', '.join(str(record['timed']) for record in records)} texts. Tokenising {judged['examples']:,} texts takes "
        f"{judged['tokenizing_seconds']:.2f} s."
    )
    return _block(rows, told, (record["command"] for record in records))


def leads(records: Records) -> str:
    """Speed of the fastest skimming contender over the fastest dense ones, a row a measurement."""
    over = ["over the fastest dense", "over the fastest without this package", "over ONNX Runtime, float32"]
    rows = [["texts", "batch", "fewer FLOPs", "fastest", *over]]
    for record in sorted(records, key=lambda record: (record["workload"], record["length"], record["batch_size"])):
        name = _fastest(record, ("compacted",))
        others = (_fastest(record, ("dense", "packed")), _fastest(record, ("dense",)), _BASELINE)
        cells = [f"{_ratio(record, name, other):.1f}x" for other in others]
        texts = f"{record['workload']}, at most {record['length']} tokens"
        rows.append([texts, str(record["batch_size"]), f"{record['flops_vs_unpadded']:.1f}x", name.removeprefix("compacted:"), *cells])
    return table(rows) + "\n"


def shapes(records: Records) -> str:
    """Speed of each student shape over the dense model at one budget, a column a task, runtime and batch size."""
    shown = [(record, way, batch) for record in records for way, batches in record["shapes"][0]["times_dense"].items() for batch in batches]
    tasks = [f"{curves.TASKS.get(record['task'], record['task'])}, {way}, batch {batch}" for record, way, batch in shown]
    rows = [["layers", "neurons", "tokens kept", *tasks]]
    for place, shape in enumerate(records[0]["shapes"]):
        times = [record["shapes"][place]["times_dense"][way][batch] for record, way, batch in shown]
        kept = sorted({round(100 * record["shapes"][place]["kept_tokens"]) for record in records})
        shares = "-".join(map(str, dict.fromkeys([kept[0], kept[-1]]))) + "%"
        rows.append([str(shape["layers"]), str(shape["neurons"]), shares, *(f"{value:.2f}x" for value in times)])
    told = "; ".join(sorted({
        f"{record['budget']:.1%} of the FLOPs of {record['layers_dense']} layers of H={record['hidden_size']} with "
        f"{record['neurons_dense']} neurons; {record['cores']} cores, {record['cpu']}; medians of {record['rounds']} rounds"
        for record in records
    }))  # fmt: skip
    return _block(rows, f"{told}.", (record["command"] for record in records))


def single(records: Records) -> str:
    """Old records of one budget, a row each."""
    rows = [["task", "backbone", "first layers", "dense", "lost", "FLOPs vs unpadded", "vs padded", "clock, float32", "seed"]]
    rows += [
        [
            curves.TASKS.get(record["task"], record["task"]), record["backbone"], str(record.get("layers") or ""),
            f"{100 * record['dense_value']:.1f}", f"{100 * (record['dense_value'] - record['value']):.1f}",
            f"{record['flops_vs_unpadded']:.2f}x", f"{record['flops_vs_padded']:.2f}x", f"{record['clock_vs_unpadded']:.2f}x",
            str(record["seed"]),
        ]
        for record in records
    ]  # fmt: skip
    return table(rows) + "\n"


def _dense(record: dict[str, Any], precision: str) -> dict[str, Any]:
    return next(row for row in record["rows"] if row["model"] == "dense" and row["precision"] == precision)


def _students(record: dict[str, Any], precision: str) -> Records:
    """An embedder's student at its three budgets, the largest first."""
    rows = [row for row in record["rows"] if row["precision"] == precision and row["model"] != "dense"]
    return sorted(rows, key=lambda row: row["qnli_flops_vs_unpadded"])


def _points_lost(dense: dict[str, Any], students: Records) -> list[str]:
    """Points of recall@10 lost at each budget, and of STS-B at the middle one."""
    shown = [*((row, "qnli", "qnli_recall@10") for row in students), (students[1], "stsb", "stsb_test")]
    return [f"{100 * (dense[measure] - row[measure]):z.1f} at {row[f'{task}_flops_vs_unpadded']:.2f}x" for row, task, measure in shown]


_LOST = ["recall@10 lost at 2x", "at 2.5x", "at 3.5x", "STS-B lost at 2.5x"]


def embedders(records: Records) -> str:
    """An embedder and its students: similarity and retrieval in points, and texts a second beside the dense model in float32."""
    rows = [[
        "model", "precision", "STS-B test", "lost", "recall@10", "lost", "MRR", "fewer FLOPs", "texts/s", "times", "queries alone: lost",
        "fewer FLOPs",
    ]]  # fmt: skip
    for record in records:
        dense = _dense(record, "float32")
        libraries = [("", "float32", record.get("sentence_transformers_texts_per_second"))]
        libraries += [(", ONNX", *item) for item in record.get("sentence_transformers_onnx_texts_per_second", {}).items()]
        for way, precision, speed in libraries:
            if speed:
                times = f"{speed / dense['texts_per_second']:.2f}x"
                rows.append([f"dense, by sentence-transformers{way}", precision, *[""] * 6, f"{speed:,.0f}", times, "", ""])
        for row in record["rows"]:
            lost = [f"{100 * (dense[name] - row[name]):z.1f}" for name in ("stsb_test", "qnli_recall@10", "queries_recall@10")]
            speed = row.get("texts_per_second")
            queries = ["", ""] if row["model"] == "dense" else [lost[2], f"{row['queries_flops_vs_unpadded']:.2f}x"]
            rows.append([
                row["model"], row["precision"], f"{100 * row['stsb_test']:.1f}", lost[0], f"{100 * row['qnli_recall@10']:.1f}", lost[1],
                f"{100 * row['qnli_mrr']:.1f}", f"{row['qnli_flops_vs_unpadded']:.2f}x", f"{speed:,.0f}" if speed else "",
                f"{speed / dense['texts_per_second']:.2f}x" if speed else "", *queries,
            ])  # fmt: skip
    first = records[0]
    told = (
        f"Retrieval: {first['queries']:,} questions of QNLI against {first['documents']:,} sentences, whose FLOPs and clock are shown. "
        "Queries alone: the dense model has computed the sentences. "
        f"Batches of {first['batch_size']}, texts of at most {first['max_length']} tokens, {first['cores']} cores."
    )
    return _block(rows, told, _all_commands(records))


def embedder_headline(records: Records) -> str:
    """Embedders in short, in int8: points lost at each budget, and texts a second at the middle one beside dense models."""
    speeds = ["texts a second at 2.5x", "dense, this engine", "dense, sentence-transformers' ONNX", "its PyTorch, float32"]
    rows = [["embedder", *_LOST, *speeds]]
    for record in records:
        students = _students(record, "int8")
        library = record.get("sentence_transformers_onnx_texts_per_second", {}).get("int8")
        ours = [row["texts_per_second"] for row in (students[1], _dense(record, "int8"))]
        shown = [f"{speed:,.0f}" if speed else "" for speed in (*ours, library, record["sentence_transformers_texts_per_second"])]
        rows.append([record["name"], *_points_lost(_dense(record, "float32"), students), *shown])
    return table(rows) + "\n"


def embedder_variants(records: Records) -> str:
    """Students of one embedder in float32, by the layers, predictors and steps that their commands name."""
    rows = [["layers", "predictors before layers", "steps", *_LOST]]
    for record in records:
        fields = ("model.layers", "skim.layers", "train.steps")
        named = [re.search(rf"--config\.{re.escape(field)}=(\S+)", record["commands"][0]) for field in fields]
        lost = _points_lost(_dense(record, "float32"), _students(record, "float32"))
        rows.append([*(name[1] if name else "by default" for name in named), *lost])
    return table(rows) + "\n"


def reranking(records: Records) -> str:
    """Cross-encoders and their students behind an embedder: ranking in points, milliseconds beside dense float32."""
    rows = [["reranker", "precision", "MRR", "lost", "nDCG@10", "lost", "fewer FLOPs", "ms a query", "times"]]
    for record in records:
        dense = record["rows"][0]
        for row in record["rows"]:
            points = [[f"{100 * row[name]:.1f}", f"{100 * (dense[name] - row[name]):z.1f}"] for name in ("mrr", "ndcg@10")]
            times = [f"{row['milliseconds']:.0f}", f"{dense['milliseconds'] / row['milliseconds']:.2f}x"]
            rows.append([row["model"], row["precision"], *points[0], *points[1], f"{row['flops_vs_unpadded']:.2f}x", *times])
    first = records[0]
    told = (
        f"{first['queries']:,} queries, the first {first['top']} of {first['documents']:,} documents each; the embedder alone: MRR "
        f"{100 * first['embedder']['mrr']:.1f}, nDCG@10 {100 * first['embedder']['ndcg@10']:.1f}. {first['cores']} cores."
    )
    return _block(rows, told, _all_commands(records))


def guarantees(records: Records) -> str:
    """The share of simulated draws in which a guaranteed budget held."""
    rows = [["task", "what is bounded", "by", "texts of a draw", "a budget was certified", "held", "median saving", "largest that holds"]]
    for record in records:
        shares = [f"{record[name] / record['draws']:.1%}" for name in ("certified", "held")]
        savings = [f"{record[name]:.2f}x" if record[name] else "" for name in ("median_saving", "best_saving")]
        bounded = {"accuracy": "accuracy lost"}.get(record["risk"], "other answers than dense")
        task = curves.TASKS.get(record["task"], record["task"])
        rows.append([task, bounded, f"{record['tolerance']:.0%}", f"{record['texts']:,}", *shares, *savings])
    first = records[0]
    told = f"{first['draws']:,} draws from {first['examples']:,} {first['split']} texts, at {first['confidence']:.0%}."
    return _block(rows, told, _all_commands(records))


def serving(records: Records) -> str:
    """A server beside its engine: throughput and waiting times of both models."""
    (record,) = records
    busy, rates, checked = record["busy"], record["rates"], record["checked"]
    names = ("skimming", "dense")

    def medians(*path: str) -> list[float]:
        """Of both models over the rounds behind the first."""
        values = [[one[name] for one in busy["rounds"][1:]] for name in names]
        for key in path:
            values = [[value[key] for value in rounds] for rounds in values]
        return [statistics.median(rounds) for rounds in values]

    def row(what: str, values: list[float]) -> list[str]:
        return [what, *(f"{value:,.0f}" for value in values), f"{values[0] / values[1]:.2f}x"]

    rows = [["texts a second", *names, "times"], row("engine without a server", medians("offline"))]
    for what, (clients, size) in busy["clients"].items():
        said = f"busy server: {clients} clients, {'one text' if size == 1 else f'{size} texts'} a request"
        rows.append(row(said, medians(what, "texts_per_second")))
        rows.append(["its share of the engine's", *(f"{value:.2f}" for value in medians(what, "of_offline")), ""])
    equal = rates["equal"]
    rows.append(row(f"where the 95th percentile of waiting is {equal['milliseconds']:,.0f} ms", [equal[name] for name in names]))
    idle = [rates["loops"][name][0] for name in names]  # at the lowest rates
    waits = [f"{loop['milliseconds']['p50']:.0f} ms" for loop in idle]
    slow = " and ".join(f"{loop['rate']:.0f}" for loop in idle)
    rows.append([f"median waiting at {slow} requests a second", *waits, ""])
    told = (
        f"{record['task']}, {record['precision']}, {record['flops_vs_unpadded']:.2f}x fewer FLOPs than unpadded dense. The server has "
        f"{busy['cores']} of the processors, as the engine without one; clients have others. Busy: by turns with the engine, "
        f"{busy['seconds']:g} s each, {len(busy['rounds']) - 1} rounds. {checked['clients']:,} clients for {checked['seconds']:g} s, "
        f"{checked['texts_per_second']:,.0f} texts a second: {checked['checked_texts']:,} answers compared with the engine's, "
        f"{checked['wrong_texts']} wrong, {checked['lost']} lost. The server took {checked['peak_megabytes']:,.0f} MB at most."
    )
    return _block(rows, told, (record[part]["command"] for part in ("busy", "rates", "checked")))


def quickstart(records: Records) -> str:
    """The result of `make quickstart`."""
    (record,) = records
    (examples,) = record["examples"].values()
    points = [f"{100 * point['value']:.1f} % at {point['flops_vs_unpadded']:.1f}x" for point in record["curve"]]
    shown = ", ".join(points[:-1])
    return (
        f"On two CPU cores it trains two models in {record['seconds'] / 60:.1f} minutes. Of {examples:,} held-out reviews the dense one "
        f"answers {100 * record['dense']['value']:.1f} %\nrightly. One skimming checkpoint answers {shown} and {points[-1]}"
        " fewer FLOPs, padding not counted.\n"
    )


VIEWS: dict[str, Callable[[Records], str]] = {
    view.__name__: view
    for view in (
        speeds, leads, shapes, single, embedders, embedder_headline, embedder_variants, reranking, guarantees, serving, quickstart,
        effects.effects,
    )
}  # fmt: skip
ROWS: dict[str, Callable[[list[records.Row]], str]] = {
    "curves": lambda rows: f"{table(curves.full(rows))}\n\n{curves.foot(rows)}\n",
    "headline": lambda rows: table(curves.headline(rows)) + "\n",
    "average": curves.average,
    "commands": lambda rows: "\n".join(["```", *curves.commands(rows), "```", ""]),
}


def view(name: str, patterns: list[str]) -> str:
    """A view of the records of files."""
    if name in ROWS:
        return ROWS[name](records.read_rows(patterns))
    found = records.read(patterns)
    if name in columns.VIEWS:
        return _block(columns.rows(name, found), columns.told(name, found), (record["command"] for record in found))
    return VIEWS[name](found)


def rendered(text: str) -> str:
    """The document with its tables made anew."""
    return _TABLE.sub(lambda match: match[1] + view(match["view"], match["files"].split()) + match[5], text)


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether documents and records agree")
    check = parser.parse_args(arguments).check
    stale = False
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        if rendered(text) != text:
            stale = True
            if not check:
                pathlib.Path(document).write_text(rendered(text), encoding="utf-8")
    if check and stale:
        sys.exit("run python -m tools.tables")


if __name__ == "__main__":
    records.start(main)
