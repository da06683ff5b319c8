"""Write the tables of README.md and of the documents in docs/ from the committed records below results/.

    python -m tools.tables [--check]

A table stands between `<!-- table: VIEW FILE.json ... -->` and `<!-- end -->`; the files are below results/, and may be patterns.
The view 'embedders' is of records of tools/embedders.py, 'reranking' of tools/rerankers.py, and
'embedder_headline' and 'reranker_in_words' say it for README. 'embedder_variants' is of students of one embedder.
The view 'serving' is of records of tools/serving.py, 'guarantees' of tools/guarantee.py.
The view 'speeds' is of one workload that `transkimmer benchmark --json` has measured: a row a contender, a column a batch size;
'leads' is of several, a row each.
The views 'headline' and 'quickstart' are README's: rows of results in short, and what its first command gives.
Of rows (tools/row.py) 'chart' names the chart, 'curves' is the table and 'words' a line a task, 'average' the convention of papers,
'commands' how they were made.
The view 'single' is of rows of before, of one budget, until their tasks and backbones have a curve: --drop-superseded deletes the others.
The view 'effects' ranks the comparisons of results/comparisons.json, pairs of records below results/ablations/.
With --check nothing is written, and the status is 1 where a document and the records disagree.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable

from tools import curves, effects

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "results"
COLUMNS = {
    # Of programs compiled for slices that are not here.
    "program": lambda r: r["program"],
    "slice": lambda r: r["topology"],
    "fsdp": lambda r: str(r["fsdp"]),
    "examples": lambda r: f"{r['examples']:,}",
    "GB a chip": lambda r: f"{r['memory_bytes'] / 1e9:.2f}",
    "GFLOP a chip": lambda r: f"{r['flops'] / 1e9:,.0f}",
    "GB moved": lambda r: f"{r['traffic_bytes'] / 1e9:.1f}",
    "collectives": lambda r: ", ".join(f"{used['count']} {kind}" for kind, used in r["collectives"].items()),
    "MB sent": lambda r: f"{r['sent_bytes'] / 1e6:,.1f}" if r["collectives"] else "",
    "ms at least": lambda r: f"{1e3 * r['step_seconds']:.1f}",
    "examples/s at most": lambda r: f"{r['examples_per_second']:,.0f}",
    "utilisation at most": lambda r: f"{r['utilization']:.0%}",
    "share of collectives": lambda r: f"{r['collective_share']:.1%}",
    # Of injected faults.
    "fault": lambda r: r["fault"],
    "injected": lambda r: str(r["injected"]),
    "noticed": lambda r: str(r["noticed"]),
    "survived": lambda r: "" if r["survived"] is None else str(r["survived"]),
    "harmless": lambda r: str(r.get("harmless", "")),
    "over the limits": lambda r: str(r.get("over_limits", "")),
    "wrong answers": lambda r: str(r["wrong"]),
    "tracebacks": lambda r: str(r["tracebacks"]),
    "seconds at most": lambda r: "" if r.get("seconds") is None else f"{r['seconds']:.1f}",
    "MB at most": lambda r: "" if r.get("megabytes") is None else f"{r['megabytes']:,.0f}",
    # Of processes.
    "runtime": lambda r: r["setting"],
    "model": lambda r: r["model"],
    "texts": lambda r: f"{r['texts']:,}",
    "seconds in all": lambda r: f"{r['seconds']:.1f}",
    "of processors": lambda r: f"{r['cpu_seconds']:.1f}",
    "MB": lambda r: f"{r['megabytes']:,.0f}",
}
VIEWS = {
    "slices": (
        "program", "slice", "fsdp", "examples", "GB a chip", "GFLOP a chip", "GB moved", "collectives", "MB sent", "ms at least",
        "examples/s at most", "utilisation at most", "share of collectives",
    ),
    "faults": (
        "fault", "injected", "noticed", "survived", "harmless", "wrong answers", "tracebacks", "over the limits", "seconds at most",
        "MB at most",
    ),
    "processes": ("runtime", "model", "texts", "seconds in all", "of processors", "MB"),
}  # fmt: skip
# Of rows of one budget.
SINGLE: dict[str, Callable[[list[dict]], str]] = {
    "task": lambda rs: curves.task_name(rs[0]),
    "backbone": lambda rs: rs[0]["backbone"],
    "metric": lambda rs: curves.metric(rs[0]),
    "texts without labels": lambda rs: f"{rs[0]['unlabelled']:,}" if rs[0].get("unlabelled") else "",
    "first layers": lambda rs: str(rs[0].get("layers") or ""),
    "dense": lambda rs: curves.spread(100 * r["dense_value"] for r in rs),
    "lost": lambda rs: curves.spread(100 * (r["dense_value"] - r["value"]) for r in rs),
    "FLOPs vs unpadded": lambda rs: f"{statistics.mean(r['flops_vs_unpadded'] for r in rs):.2f}x",
    "vs padded": lambda rs: f"{statistics.mean(r['flops_vs_padded'] for r in rs):.2f}x",
    "clock, float32": lambda rs: _clock(rs, "clock_vs_unpadded"),
    "seeds": lambda rs: " ".join(str(r["seed"]) for r in rs),
}
_TABLE = re.compile(r"(<!-- table: (?P<view>\w+) (?P<files>[^>]*?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def _clock(records: list[dict], name: str) -> str:
    timed = [record[name] for record in records if record.get(name) is not None]
    return f"{statistics.mean(timed):.2f}x" if timed else ""


def _by_seed(records: list[dict]) -> list[list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        same = ("unlabelled", "layers", "steps")
        key = (record["task"], record["backbone"], -record["target"], *(record.get(name) or 0 for name in same))
        groups.setdefault(key, []).append(record)
    return [sorted(groups[key], key=lambda record: record["seed"]) for key in sorted(groups)]


def _metric(entry: dict) -> str:
    return ", ".join(f"{100 * value:.2f} {name}" for name, value in (entry["metrics"] or {}).items())


def _times(record: dict, faster: str, slower: str) -> float:
    """How many times faster one contender is than another: the median of the ratios in a round."""
    rounds = [record["contenders"][name]["seconds_of_rounds"] for name in (slower, faster)]
    return statistics.median(theirs / ours for theirs, ours in zip(*rounds, strict=True))


def fastest(record: dict, ways: tuple[str, ...]) -> str:
    """The name of the fastest contender of these ways."""
    speeds = {name: entry["examples_per_second"] for name, entry in record["contenders"].items() if name.startswith(ways)}
    return max(speeds, key=speeds.__getitem__)


def speeds(records: list[dict]) -> str:
    """Texts a second of every contender at every batch size, and between brackets how many times those of dense ONNX Runtime in float32.
    Answers are those of the record that has judged the most texts."""
    judged = max(records, key=lambda record: record["examples"])
    baseline = "dense:onnxruntime:float32"
    head = ["contender", *(f"batch {record['batch_size']}" for record in records), f"{judged['examples']:,} answers", "changed"]
    rows = [head, ["---"] * len(head)]
    for name, entry in judged["contenders"].items():
        cells = [f"{record['contenders'][name]['examples_per_second']:,.0f} ({_times(record, name, baseline):.2f}x)" for record in records]
        rows.append([name, *cells, _metric(entry), "" if entry["predictions_changed"] is None else str(entry["predictions_changed"])])
    best = [(fastest(record, ("compacted",)), fastest(record, ("dense", "packed"))) for record in records]
    ratios = [f"{_times(record, *names):.2f}x" for record, names in zip(records, best, strict=True)]
    rows.append(["fastest skimming over fastest dense", *ratios, "", ""])
    record = judged
    lines = [
        "| " + " | ".join(row) + " |" for row in rows
    ] + [
        "",
        f"{record['workload']}, texts of at most {record['length']} tokens ({record['tokens'] / record['examples']:.0f} on average), "
        f"{record['layers']} of the dense model's {record['layers_dense']} layers, H={record['hidden_size']}, "
        f"{record['flops_vs_unpadded']:.2f}x fewer FLOPs than unpadded dense, {record['flops_vs_padded']:.2f}x than padded; "
        f"{record['cores']} cores, {record['cpu']}; medians of {record['repeats']} rounds of "
        f"{', '.join(str(setting['timed']) for setting in records)} texts. Tokenising {record['examples']:,} texts takes "
        f"{record['tokenizing_seconds']:.2f} s. From:",
        "", "```", *dict.fromkeys(setting["command"] for setting in records), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def leads(records: list[dict]) -> str:
    """How many times as fast the fastest skimming contender is as the fastest dense ones, a row a measurement."""
    over = ["over the fastest dense", "over the fastest without this package", "over ONNX Runtime, float32"]
    rows = [["texts", "batch", "fewer FLOPs", "fastest", *over]]
    for record in sorted(records, key=lambda setting: (setting["workload"], setting["length"], setting["batch_size"])):
        name = fastest(record, ("compacted",))
        others = (fastest(record, ("dense", "packed")), fastest(record, ("dense",)), "dense:onnxruntime:float32")
        cells = [f"{_times(record, name, other):.1f}x" for other in others]
        texts = f"{record['workload']}, at most {record['length']} tokens"
        rows.append([texts, str(record["batch_size"]), f"{record['flops_vs_unpadded']:.1f}x", name.removeprefix("compacted:"), *cells])
    return "\n".join([*_table(rows), ""])


def shapes(records: list[dict]) -> str:
    """How many times as fast as the dense model each shape of a student is at one budget, a column a task, runtime and batch size."""
    shown = [(record, way, batch) for record in records for way, batches in record["shapes"][0]["times_dense"].items() for batch in batches]
    head = ["layers", "neurons", "tokens kept", *(f"{curves.task_name(record)}, {way}, batch {batch}" for record, way, batch in shown)]
    by_shape = [{(entry["layers"], entry["neurons"]): entry for entry in record["shapes"]} for record, _, _ in shown]
    rows = [head]
    for layers, neurons in by_shape[0]:
        entries = [entries[layers, neurons] for entries in by_shape]
        kept = sorted({round(100 * entry["kept_tokens"]) for entry in entries})
        cells = [f"{entry['times_dense'][way][batch]:.2f}x" for entry, (_, way, batch) in zip(entries, shown, strict=True)]
        rows.append([str(layers), str(neurons), f"{'-'.join(map(str, dict.fromkeys([kept[0], kept[-1]])))}%", *cells])
    spent = [1 / entry["flops_vs_unpadded"] for record in records for entry in record["shapes"]]
    made = sorted({
        f"{r['budget']:.1%} of the FLOPs of {r['layers_dense']} layers of H={r['hidden_size']} with {r['neurons_dense']} neurons, within "
        f"{max(abs(share / r['budget'] - 1) for share in spent):.1%}; {r['cores']} cores, {r['cpu']}; medians of {r['rounds']} rounds"
        for r in records
    })  # fmt: skip
    lines = [*_table(rows), "", f"{'; '.join(made)}. From:", "", "```", *(record["command"] for record in records), "```", ""]
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return lines


def _dense(record: dict, precision: str) -> dict:
    """The row of a record's dense model."""
    return next(row for row in record["rows"] if row["model"] == "dense" and row["precision"] == precision)


def embedders(records: list[dict]) -> str:
    """Embedders and their students: similarity and retrieval in points, and the clock beside that of the dense model in float32."""
    rows = [[
        "model", "precision", "STS-B test", "lost", "recall@10", "lost", "MRR", "fewer FLOPs", "texts/s", "times", "queries alone: lost",
        "fewer FLOPs",
    ]]  # fmt: skip
    for record in records:
        dense = _dense(record, "float32")
        library = [("", "float32", record.get("sentence_transformers_texts_per_second"))]
        library += [(", ONNX", *item) for item in record.get("sentence_transformers_onnx_texts_per_second", {}).items()]
        for way, precision, speed in library:
            if speed:
                times = f"{speed / dense['texts_per_second']:.2f}x"
                rows.append([f"dense, by sentence-transformers{way}", precision, *[""] * 6, f"{speed:,.0f}", times, "", ""])
        for row in record["rows"]:
            lost = {name: f"{100 * (dense[name] - row[name]):z.1f}" for name in ("stsb_test", "qnli_recall@10", "queries_recall@10")}
            speed = row.get("texts_per_second")
            is_dense = row["model"] == "dense"
            rows.append([
                row["model"], row["precision"], f"{100 * row['stsb_test']:.1f}", lost["stsb_test"], f"{100 * row['qnli_recall@10']:.1f}",
                lost["qnli_recall@10"], f"{100 * row['qnli_mrr']:.1f}", f"{row['qnli_flops_vs_unpadded']:.2f}x",
                f"{speed:,.0f}" if speed else "", f"{speed / dense['texts_per_second']:.2f}x" if speed else "",
                "" if is_dense else lost["queries_recall@10"], "" if is_dense else f"{row['queries_flops_vs_unpadded']:.2f}x",
            ])  # fmt: skip
    first = records[0]
    way = ", ".join(
        f"{point['cosine']:.2f} at {point['flops_vs_unpadded']:.2f}x (step {point['step']})"
        for record in records
        for point in record["on_the_way"]
    )
    told = (
        f"{', '.join(record['name'] for record in records)}. Cosine with the teacher's vectors on held-out texts, on the way: {way}. "
        f"Retrieval: {first['queries']:,} questions of QNLI against {first['documents']:,} sentences, of which FLOPs and clock are too. "
        "Queries alone: recall@10 where the dense model has computed the sentences, and what the questions cost. "
        f"Batches of {first['batch_size']}, texts of at most {first['max_length']} tokens, {first['cores']} cores. "
    )
    if seconds := sum(record.get("training_seconds", 0.0) for record in records):
        told += f"Training took {seconds / 60:.0f} minutes. "
    told += "From:"
    commands = dict.fromkeys(command for record in records for command in record["commands"])
    return "\n".join([*_table(_without_empty(rows)), "", told, "", "```", *commands, "```", ""])


def embedder_headline(records: list[dict]) -> str:
    """Embedders in short, in int8: what their students lose at each budget, and texts a second at the middle one beside dense ones."""
    rows = [[
        "embedder", "recall@10 lost at 2x", "at 2.5x", "at 3.5x", "STS-B lost at 2.5x", "texts a second at 2.5x", "dense, this engine",
        "dense, sentence-transformers' ONNX", "its PyTorch, float32",
    ]]  # fmt: skip
    for record in records:
        dense, same = _dense(record, "float32"), _dense(record, "int8")
        students = _students(record, "int8")
        middle = students[1]
        library = record.get("sentence_transformers_onnx_texts_per_second", {}).get("int8")
        speeds = [middle["texts_per_second"], same["texts_per_second"], library, record["sentence_transformers_texts_per_second"]]
        rows.append([
            record["name"], *_points_lost(dense, students), *(f"{speed:,.0f}" if speed else "" for speed in speeds),
        ])  # fmt: skip
    return "\n".join([*_table(_without_empty(rows)), ""])


def _students(record: dict, precision: str) -> list[dict]:
    """The rows of an embedder's student at its three budgets, the largest first."""
    rows = [row for row in record["rows"] if row["precision"] == precision and row["model"] != "dense"]
    return sorted(rows, key=lambda row: row["qnli_flops_vs_unpadded"])


def _points_lost(dense: dict, students: list[dict]) -> list[str]:
    """What is lost of recall@10 at each budget, and of STS-B at the middle one."""
    shown = [*((row, "qnli", "qnli_recall@10") for row in students), (students[1], "stsb", "stsb_test")]
    return [f"{100 * (dense[measure] - row[measure]):z.1f} at {row[f'{task}_flops_vs_unpadded']:.2f}x" for row, task, measure in shown]


def embedder_variants(records: list[dict]) -> str:
    """Students of one embedder in float32, by what their commands name of layers, predictors and steps."""
    rows = [["layers", "predictors before layers", "steps", "recall@10 lost at 2x", "at 2.5x", "at 3.5x", "STS-B lost at 2.5x"]]
    for record in records:
        fields = ("model.layers", "skim.layers", "train.steps")
        named = [re.search(rf"--config\.{re.escape(field)}=(\S+)", record["commands"][0]) for field in fields]
        lost = _points_lost(_dense(record, "float32"), _students(record, "float32"))
        rows.append([*(name[1] if name else "by default" for name in named), *lost])
    return "\n".join([*_table(rows), ""])


def reranking(records: list[dict]) -> str:
    """Cross-encoders and their students behind an embedder: ranking in points, milliseconds beside dense float32."""
    rows = [["reranker", "precision", "MRR", "lost", "nDCG@10", "lost", "fewer FLOPs", "ms a query", "times"]]
    for record in records:
        dense = record["rows"][0]
        for row in record["rows"]:
            points = [[f"{100 * row[name]:.1f}", f"{100 * (dense[name] - row[name]):z.1f}"] for name in ("mrr", "ndcg@10")]
            rows.append([
                row["model"], row["precision"], *points[0], *points[1], f"{row['flops_vs_unpadded']:.2f}x", f"{row['milliseconds']:.0f}",
                f"{dense['milliseconds'] / row['milliseconds']:.2f}x",
            ])  # fmt: skip
    first = records[0]
    told = (
        f"{first['queries']:,} queries, the first {first['top']} of {first['documents']:,} documents each; the embedder alone: MRR "
        f"{100 * first['embedder']['mrr']:.1f}, nDCG@10 {100 * first['embedder']['ndcg@10']:.1f}. {first['cores']} cores. From:"
    )
    commands = dict.fromkeys(command for record in records for command in record["commands"])
    return "\n".join([*_table(rows), "", told, "", "```", *commands, "```", ""])


def reranker_in_words(records: list[dict]) -> str:
    """What a reranker's student saves most and loses, beside its dense model in float32 and in its own precision."""
    (record,) = records
    least = min(record["rows"], key=lambda row: row["milliseconds"])
    dense, same = _dense(record, "float32"), _dense(record, least["precision"])
    saving, ranks = f"{least['flops_vs_unpadded']:.1f}x", [f"{100 * row['mrr']:.1f}" for row in (least, dense)]
    times = [f"{row['milliseconds']:.0f} ms" for row in (least, same, dense)]
    return (
        f"A cross-encoder's student that spends {saving} fewer FLOPs has an MRR of {ranks[0]}, and its teacher {ranks[1]}.\n"
        f"For {record['top']} documents it takes {times[0]} in {least['precision']}. The teacher takes {times[1]}, in float32 {times[2]}.\n"
    )


def guarantees(records: list[dict]) -> str:
    """How often a budget chosen with a guarantee held on simulated draws."""
    rows = [["task", "what is bounded", "by", "texts of a draw", "a budget was certified", "held", "median saving", "largest that holds"]]
    for record in records:
        draws = record["draws"]
        rows.append([
            curves.task_name(record), {"accuracy": "accuracy lost"}.get(record["risk"], "other answers than dense"),
            f"{record['tolerance']:.0%}", f"{record['texts']:,}", f"{record['certified'] / draws:.1%}", f"{record['held'] / draws:.1%}",
            f"{record['median_saving']:.2f}x" if record["median_saving"] else "",
            f"{record['best_saving']:.2f}x" if record["best_saving"] else "",
        ])  # fmt: skip
    first = records[0]
    told = f"{first['draws']:,} draws from {first['examples']:,} {first['split']} texts, at {first['confidence']:.0%}. From:"
    commands = dict.fromkeys(command for record in records for command in record["commands"])
    return "\n".join([*_table(rows), "", told, "", "```", *commands, "```", ""])


def serving(records: list[dict]) -> str:
    """A server beside its engine: throughput and waiting times of both models, and what was compared."""
    lines = []
    for record in records:
        busy, equal, checked = record["busy"], record["rates"]["equal"], record["checked"]

        def median(name: str, *path: str, rounds: list[dict] = busy["rounds"][1:]) -> float:
            values: list = [one[name] for one in rounds]
            for key in path:
                values = [value[key] for value in values]
            return statistics.median(values)

        def row(what: str, values: list[float], digits: int = 0) -> list[str]:
            return [what, *(f"{value:,.{digits}f}" for value in values), f"{values[0] / values[1]:.2f}x"]

        names = ("skimming", "dense")
        idle = [record["rates"]["loops"][name][0] for name in names]  # at the lowest rates
        rows = [
            ["texts a second", "skimming", "dense", "times"],
            row("engine without a server", [median(name, "offline") for name in names]),
        ]
        for what, (clients, size) in busy["clients"].items():
            said = f"busy server: {clients} clients, {'one text' if size == 1 else f'{size} texts'} a request"
            rows.append(row(said, [median(name, what, "texts_per_second") for name in names]))
            rows.append(["its share of the engine's", *(f"{median(name, what, 'of_offline'):.2f}" for name in names), ""])
        rows.append(row(f"where the 95th percentile of waiting is {equal['milliseconds']:,.0f} ms", [equal[name] for name in names]))
        rates = " and ".join(f"{loop['rate']:.0f}" for loop in idle)
        waits = [f"{loop['milliseconds']['p50']:.0f} ms" for loop in idle]
        rows.append([f"median waiting where few come: {rates} a second", *waits, ""])
        told = (
            f"{record['task']}, {record['precision']}, {record['flops_vs_unpadded']:.2f}x fewer FLOPs than unpadded dense. The server has"
            f" {busy['cores']} of the processors, as the engine without one; clients have others. Busy: by turns with the engine,"
            f" {busy['seconds']:g} s each, rounds that count:"
            f" {len(busy['rounds']) - 1}."
            f" {checked['clients']:,} clients for {checked['seconds']:g} s, {checked['texts_per_second']:,.0f} texts a second:"
            f" {checked['checked_texts']:,} answers compared with the engine's, {checked['wrong_texts']} wrong, {checked['lost']} lost."
            f" The server took {checked['peak_megabytes']:,.0f} MB at most, with both models. From:"
        )
        commands = dict.fromkeys(record[part]["command"] for part in ("busy", "rates", "checked"))
        lines += [*_table(rows), "", told, "", "```", *commands, "```", ""]
    return "\n".join(lines)


def headline(records: list[dict]) -> str:
    """Rows of results in short. The clock is at the largest of the savings, against this engine's dense model in the same precision."""
    savings = curves.SAVINGS
    head = ["task", "dense", *(f"lost at {saving:g}x" for saving in savings), "clock, float32", "int8", "texts a second, int8"]
    lines = []
    for curve in curves.Curve.of(records):
        if not curve.is_main:
            continue
        point = curve.nearest(savings[-1])
        speeds = [curve.timed("int8", point, what) for what in ("texts_per_second", "dense")]
        said = f"{statistics.mean(speeds[0]):,.0f}, dense {statistics.mean(speeds[1]):,.0f}" if speeds[0] else ""
        cells = [str(curve.at(saving) or "") for saving in savings]
        clocks = [curves.times(curve.timed(precision, point, "times_dense")) for precision in ("float32", "int8")]
        dense = curves.spread(100 * record["dense_value"] for record in curve.records)
        task = f"{curves.task_name(curve.first)}, {curve.first['metric'].replace('_', ' ')}"
        lines.append([task, dense, *cells, *clocks, said])
    return "\n".join(_table(_without_empty([head, *lines]))) + "\n"


def chart(records: list[dict]) -> str:
    """The chart that tools/charts.py has drawn, where there is anything on it."""
    here = [curve.name for curve in curves.Curve.of(records) if curve.is_main]
    return f"![Points lost against times fewer FLOPs: {', '.join(dict.fromkeys(here))}](results.svg)\n" if here else ""


def rows_of_curves(records: list[dict]) -> str:
    """The table of docs/results.md, and how its rows were made."""
    rows = curves.table(records)
    lines = _table(_without_empty(rows)) if len(rows) > 1 else []
    return "\n".join([*lines, *([""] if lines else []), curves.told(records), ""])


def single(records: list[dict]) -> str:
    """Rows of before, of one budget, under a heading of their own."""
    old = set(curves.superseded(dict(enumerate(records))))
    groups = _by_seed([record for number, record in enumerate(records) if "curve" not in record and number not in old])
    if not groups:
        return ""
    rows = [list(SINGLE), *([cell(group) for cell in SINGLE.values()] for group in groups)]
    told = (
        "Models trained for one budget, most of them 28 % of the FLOPs. `first layers`: the skimming model has only these of the "
        "dense one's. Their commands and commits stand in `results/rows/`."
    )
    return "\n".join(["## One budget", "", told, "", *_table(_without_empty(rows)), ""])


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """A table without the columns that are empty throughout."""
    return [list(row) for row in zip(*(column for column in zip(*rows, strict=True) if any(column[1:])), strict=True)]


def quickstart(records: list[dict]) -> str:
    """What `make quickstart` gives."""
    (record,) = records
    (examples,) = record["examples"].values()
    points = [f"{100 * point['value']:.1f} % at {point['flops_vs_unpadded']:.1f}x" for point in record["curve"]]
    dense, minutes = 100 * record["dense"]["value"], record["seconds"] / 60
    return (
        f"On two CPU cores it trains two models in {minutes:.1f} minutes. Of {examples:,} held-out reviews the dense one answers "
        f"{dense:.1f} %\nrightly. One skimming checkpoint answers {', '.join(points[:-1])} and {points[-1]} fewer FLOPs, padding not "
        "counted.\n"
    )


def table(view: str, files: list[str]) -> str:
    """A Markdown table of the records, and the commands they came from. Columns that are empty throughout are left out."""
    paths = [path for file in files for path in (sorted(RECORDS.glob(file)) if set(file) & set("*[") else [RECORDS / file])]
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [record for content in contents for record in (content if isinstance(content, list) else [content])]
    whole = {
        "speeds": speeds,
        "leads": leads,
        "shapes": shapes,
        "embedders": embedders,
        "reranking": reranking,
        "embedder_headline": embedder_headline,
        "embedder_variants": embedder_variants,
        "reranker_in_words": reranker_in_words,
        "serving": serving,
        "guarantees": guarantees,
        "headline": headline,
        "quickstart": quickstart,
        "chart": chart,
        "curves": rows_of_curves,
        "average": curves.average,
        "words": curves.in_words,
        "commands": lambda records: "\n".join(["```", *curves.commands(records), "```", ""]) if curves.Curve.of(records) else "",
        "single": single,
        "effects": lambda records: effects.text(records, RECORDS / "ablations"),
    }
    if view in whole:
        return whole[view](records)
    lines = _table(_without_empty([list(VIEWS[view]), *([COLUMNS[name](record) for name in VIEWS[view]] for record in records)]))
    commands = list(dict.fromkeys(record["command"] for record in records))
    return "\n".join([*lines, "", f"{_circumstances(view, records)}From:", "", "```", *commands, "```", ""])


def _circumstances(view: str, records: list[dict]) -> str:
    """How the records were made, where their columns do not say it."""
    if view == "processes":
        return "; ".join(sorted({f"{r['cores']} cores, commit {r['commit']}" for r in records})) + ". "
    if view == "faults":
        return "; ".join(sorted({f"Seed {r['seed']}, {r['cores']} cores, commit {r['commit']}" for r in records})) + ". "
    if view != "slices":
        return ""
    shapes = sorted({f"{r['layers']} layers of H={r['hidden_size']}, texts of {r['length']} tokens, {r['dtype']}" for r in records})
    compilers = sorted({f"jax {record['jax']} with libtpu {record['libtpu']}" for record in records})
    return f"{'; '.join(shapes)}, compiled by {'; '.join(compilers)}. "


def rendered(text: str) -> str:
    """The document with its tables made anew."""
    return _TABLE.sub(lambda match: match[1] + table(match["view"], match["files"].split()) + match[5], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the document and the records agree")
    parser.add_argument("--drop-superseded", action="store_true", help="delete rows of one budget whose task and backbone have a curve")
    args = parser.parse_args()
    if args.drop_superseded:
        for path in curves.superseded({path: json.loads(path.read_text(encoding="utf-8")) for path in (RECORDS / "rows").glob("*.json")}):
            print(f"deleting {path.relative_to(ROOT)}")
            path.unlink()
    stale = 0
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = document.read_text(encoding="utf-8")
        if rendered(text) != text:
            stale = 1
            if not args.check:
                document.write_text(rendered(text), encoding="utf-8")
    return stale if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
