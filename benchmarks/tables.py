"""Write the tables of README.md and of the documents in docs/ from the committed records below results/.

    python benchmarks/tables.py [--check]

A table stands between `<!-- table: VIEW FILE.json ... -->` and `<!-- end -->`; the files are below results/, and may be patterns.
The view 'embedders' is of records of benchmarks/embedders.py, 'reranking' of `transkimmer retrieve --reranker --json`.
The view 'serving' is of records of benchmarks/serving.py.
The view 'speeds' is of one workload that `transkimmer benchmark --json` has measured: a row a contender, a column a batch size.
The views 'headline' and 'quickstart' are README's: rows of results beside the clock of int8, and what its first command gives.
The view 'rows' has one row for all seeds of a task, backbone, target, number of texts without labels, of layers and of steps. With
--check nothing is written, and the status is 1 where a document and the records disagree.
"""

import argparse
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "results"
COLUMNS = {
    "FLOPs vs padded": lambda r: f"{r['flops_vs_padded']:.2f}x",
    "FLOPs vs unpadded": lambda r: f"{r['flops_vs_unpadded']:.2f}x",
    "clock vs padded": lambda r: _clock([r], "clock_vs_padded"),
    "clock vs dense packed": lambda r: _clock([r], "clock_vs_unpadded"),
    # Of programs compiled for slices that are not here.
    "program": lambda r: r["program"],
    "slice": lambda r: r["topology"],
    "fsdp": lambda r: str(r["fsdp"]),
    "examples": lambda r: f"{r['examples']:,}",
    "GB a chip": lambda r: f"{r['memory_bytes'] / 1e9:.2f}",
    "GFLOP a chip": lambda r: f"{r['flops'] / 1e9:,.0f}",
    "GB moved": lambda r: f"{r['traffic_bytes'] / 1e9:.1f}",
    "collectives": lambda r: ", ".join(f"{each['count']} {kind}" for kind, each in r["collectives"].items()),
    "MB sent": lambda r: f"{r['sent_bytes'] / 1e6:,.1f}" if r["collectives"] else "",
    "ms at least": lambda r: f"{1e3 * r['step_seconds']:.1f}",
    "examples/s at most": lambda r: f"{r['examples_per_second']:,.0f}",
    "utilisation at most": lambda r: f"{r['utilization']:.0%}",
    "share of collectives": lambda r: f"{r['collective_share']:.1%}",
    # Of training runs.
    "what": lambda r: r["what"],
    "commit": lambda r: r["commit"],
    "timed at batch": lambda r: str(r.get("batch_size", "")),
    "task": lambda r: r["task"],
    "metric": lambda r: r["metric"].replace("_", " "),
    "dense": lambda r: f"{100 * r['dense_value']:.1f}",
    "value": lambda r: f"{100 * r['value']:.1f}",
    "says what dense says": lambda r: f"{r['agreement']:.1%} of {r['unseen_texts']:,}" if "agreement" in r else "",
    "divergence from dense": lambda r: f"{r['divergence']:.3f}" if "divergence" in r else "",
    "kept per layer": lambda r: " ".join(f"{share:.2f}" for share in r["kept_per_layer"]),
    "threshold": lambda r: f"{r['threshold']:.2f}",
    "seed": lambda r: str(r["seed"]),
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
    # Of rows, on validation.
    "backbone": lambda r: r["backbone"],
    "first layers": lambda r: str(r.get("layers") or ""),
    "dense, validation": lambda r: f"{100 * r['dense_validation_value']:.1f}",
    "on the way": lambda r: ", ".join(f"{100 * each['value']:.1f} at {each['flops_vs_unpadded']:.2f}x" for each in r["fall"]),
}
VIEWS = {
    "slices": (
        "program", "slice", "fsdp", "examples", "GB a chip", "GFLOP a chip", "GB moved", "collectives", "MB sent", "ms at least",
        "examples/s at most", "utilisation at most", "share of collectives",
    ),
    "results": (
        "what", "task", "metric", "dense", "value", "FLOPs vs padded", "FLOPs vs unpadded", "clock vs padded", "clock vs dense packed",
        "timed at batch", "kept per layer", "seed",
    ),
    "faults": (
        "fault", "injected", "noticed", "survived", "harmless", "wrong answers", "tracebacks", "over the limits", "seconds at most",
        "MB at most",
    ),
    "processes": ("runtime", "model", "texts", "seconds in all", "of processors", "MB"),
    "falls": ("task", "backbone", "first layers", "metric", "dense, validation", "on the way", "seed"),
    "runs": (
        "what", "task", "metric", "dense", "value", "says what dense says", "divergence from dense", "FLOPs vs padded", "FLOPs vs unpadded",
        "kept per layer", "threshold", "seed", "commit",
    ),
}  # fmt: skip
# Of records that differ by their seeds: mean, and between brackets the sample standard deviation.
ROWS: dict[str, Callable[[list[dict]], str]] = {
    "task": lambda rs: rs[0]["task"],
    "backbone": lambda rs: rs[0]["backbone"],
    "metric": lambda rs: f"{rs[0]['metric'].replace('_', ' ')}, {rs[0]['split']}",
    "texts without labels": lambda rs: f"{rs[0]['unlabelled']:,}" if rs[0].get("unlabelled") else "",
    "first layers": lambda rs: str(rs[0].get("layers") or ""),
    "asked": lambda rs: f"{rs[0]['target']:.2f}",
    "dense": lambda rs: _spread([100 * r["dense_value"] for r in rs]),
    "skimming": lambda rs: _spread([100 * r["value"] for r in rs]),
    "lost": lambda rs: _spread([100 * (r["dense_value"] - r["value"]) for r in rs]),
    "FLOPs vs padded": lambda rs: f"{statistics.mean(r['flops_vs_padded'] for r in rs):.2f}x",
    "FLOPs vs unpadded": lambda rs: f"{statistics.mean(r['flops_vs_unpadded'] for r in rs):.2f}x",
    "clock vs padded": lambda rs: _clock(rs, "clock_vs_padded"),
    "clock vs dense packed": lambda rs: _clock(rs, "clock_vs_unpadded"),
    "budget error": lambda rs: f"{max((r['budget_error'] for r in rs), key=abs):+.1%}",
    "kept per layer": lambda rs: " ".join(f"{statistics.mean(each):.2f}" for each in zip(*(r["kept_per_layer"] for r in rs), strict=True)),
    "seeds": lambda rs: " ".join(str(r["seed"]) for r in rs),
}
_TABLE = re.compile(r"(<!-- table: (?P<view>\w+) (?P<files>[^>]*?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.1f})"


def _clock(records: list[dict], name: str) -> str:
    timed = [record[name] for record in records if record.get(name) is not None]
    return f"{statistics.mean(timed):.2f}x" if timed else ""


def _seeds_together(records: list[dict]) -> list[list[dict]]:
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
        f"{', '.join(str(each['timed']) for each in records)} texts. Tokenising {record['examples']:,} texts takes "
        f"{record['tokenizing_seconds']:.2f} s. From:",
        "", "```", *dict.fromkeys(each["command"] for each in records), "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return lines


def embedders(records: list[dict]) -> str:
    """Embedders and their students: similarity and retrieval in points, and the clock beside that of the dense model in float32."""
    head = [
        "embedder",
        "model",
        "precision",
        "STS-B test",
        "lost",
        "recall@1",
        "recall@10",
        "lost",
        "MRR",
        "fewer FLOPs",
        "texts/s",
        "times",
    ]
    rows = [head]
    for record in records:
        dense = next(row for row in record["rows"] if row["model"] == "dense" and row["precision"] == "float32")
        torch = record.get("sentence_transformers_texts_per_second")
        if torch:
            speed, times = f"{torch:,.0f}", f"{torch / dense['texts_per_second']:.2f}x"
            rows.append([record["name"], "dense, by sentence-transformers", "float32", *[""] * 7, speed, times])
        for row in record["rows"]:
            points = {name: 100 * row[name] for name in ("stsb_test", "qnli_recall@1", "qnli_recall@10", "qnli_mrr")}
            lost = [f"{100 * dense[name] - points[name]:.1f}" for name in ("stsb_test", "qnli_recall@10")]
            speed = row.get("texts_per_second")
            rows.append([
                record["name"], row["model"], row["precision"], f"{points['stsb_test']:.1f}", lost[0], f"{points['qnli_recall@1']:.1f}",
                f"{points['qnli_recall@10']:.1f}", lost[1], f"{points['qnli_mrr']:.1f}", f"{row['qnli_flops_vs_unpadded']:.2f}x",
                f"{speed:,.0f}" if speed else "", f"{speed / dense['texts_per_second']:.2f}x" if speed else "",
            ])  # fmt: skip
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-2] for row in rows]
    first = records[0]
    way = ", ".join(
        f"{each['cosine']:.2f} at {each['flops_vs_unpadded']:.2f}x (step {each['step']})"
        for record in records
        for each in record["on_the_way"]
    )
    told = (
        f"Cosine with the teacher's vectors on held-out texts, on the way: {way}. Retrieval: {first['queries']:,} questions of QNLI "
        f"against {first['documents']:,} sentences, of which FLOPs and clock are too. "
        f"Batches of {first['batch_size']}, texts of at most {first['max_length']} tokens, {first['cores']} cores. From:"
    )
    commands = dict.fromkeys(command for record in records for command in record["commands"])
    return "\n".join([*_table(rows), "", told, "", "```", *commands, "```", ""])


def reranking(records: list[dict]) -> str:
    """Rerankers behind one embedder."""
    rows = [["reranker", "precision", "MRR", "nDCG@10", "fewer FLOPs", "ms a query"]]
    rows += [
        [
            record["what"], record["precision"], f"{100 * record['reranking']['mrr']:.1f}", f"{100 * record['reranking']['ndcg@10']:.1f}",
            f"{record['reranking_flops_vs_unpadded']:.2f}x", f"{record['reranking_milliseconds_a_query']:,.0f}",
        ]
        for record in records
    ]  # fmt: skip
    first = records[0]
    told = (
        f"{first['queries']:,} queries, the first {first['top']} of {first['documents']:,} documents each; the embedder alone: MRR "
        f"{100 * first['retrieval']['mrr']:.1f}, nDCG@10 {100 * first['retrieval']['ndcg@10']:.1f}. From:"
    )
    return "\n".join([*_table(rows), "", told, "", "```", *dict.fromkeys(record["command"] for record in records), "```", ""])


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
        rows = [
            ["texts a second", "skimming", "dense", "times"],
            row("engine without a server", [median(name, "offline") for name in names]),
        ]
        for what, (clients, size) in busy["clients"].items():
            said = f"busy server: {clients} clients, {'one text' if size == 1 else f'{size} texts'} a request"
            rows.append(row(said, [median(name, what, "texts_per_second") for name in names]))
            rows.append(["its share of the engine's", *(f"{median(name, what, 'of_offline'):.2f}" for name in names), ""])
        rows.append(row(f"where the 95th percentile of waiting is {equal['milliseconds']:,.0f} ms", [equal[name] for name in names]))
        told = (
            f"{record['task']}, {record['precision']}, {record['flops_vs_unpadded']:.2f}x fewer FLOPs than unpadded dense; server and"
            f" clients on the same {busy['cores']} cores. Busy: by turns with the engine, {busy['seconds']:g} s each, rounds that count:"
            f" {len(busy['rounds']) - 1}."
            f" {checked['clients']:,} clients for {checked['seconds']:g} s, {checked['texts_per_second']:,.0f} texts a second:"
            f" {checked['checked_texts']:,} answers compared with the engine's, {checked['wrong_texts']} wrong, {checked['lost']} lost."
            f" The server took {checked['peak_megabytes']:,.0f} MB at most, with both models. From:"
        )
        commands = dict.fromkeys(record[part]["command"] for part in ("busy", "rates", "checked"))
        lines += [*_table(rows), "", told, "", "```", *commands, "```", ""]
    return "\n".join(lines)


def headline(records: list[dict]) -> str:
    """Rows of results. Beside a row stands the clock of int8 where a record has timed a model of the same task and layers at the same
    FLOPs, to a twentieth: how many times the texts a second of the best int8 without this package."""
    timed = [record for record in records if "contenders" in record and record["batch_size"] == 32]
    groups = _seeds_together([record for record in records if "contenders" not in record])
    rows = [["task", "dense", "skimming", "points lost", "fewer FLOPs", "clock, float32", "clock, int8", "texts a second, int8"]]
    for group in sorted(groups, key=lambda group: statistics.mean(row["dense_value"] - row["value"] for row in group)):
        spent = statistics.mean(row["flops_vs_unpadded"] for row in group)
        same = [
            record
            for record in timed
            if record["workload"] == group[0]["task"]
            and record["layers"] == (group[0].get("layers") or record["layers_dense"])
            and abs(record["flops_vs_unpadded"] / spent - 1) < 0.05
        ]
        assert len(same) <= 1, f"several records time {group[0]['task']}"
        int8 = ["", ""]
        if same:
            ours = fastest(same[0], ("compacted:onnxruntime:int8", "compacted:openvino:int8"))
            theirs = fastest(same[0], ("dense:onnxruntime:int8", "dense:openvino:int8"))
            speeds = [same[0]["contenders"][name]["examples_per_second"] for name in (ours, theirs)]
            int8 = [f"{_times(same[0], ours, theirs):.2f}x", f"{speeds[0]:,.0f}, dense {speeds[1]:,.0f}"]
        names = ("task", "dense", "skimming", "lost", "FLOPs vs unpadded", "clock vs dense packed")
        cells = {name: ROWS[name](group) for name in names}
        cells["task"] = f"{cells['task']}, {group[0]['metric'].replace('_', ' ')}"
        rows.append([*cells.values(), *int8])
    return "\n".join(_table(rows)) + "\n"


def quickstart(records: list[dict]) -> str:
    """What `make quickstart` gives."""
    (record,) = records
    (examples,) = record["examples"].values()
    return (
        f"On two CPU cores it trains for {record['seconds'] / 60:.1f} minutes and ends at {100 * record['value']:.1f} % of {examples:,} "
        f"held-out reviews right,\nwith {100 * record['kept_tokens']:.0f} % of their tokens computed: "
        f"{record['flops_vs_unpadded']:.2f} times fewer FLOPs than its dense model without padding.\n"
    )


def table(view: str, files: list[str]) -> str:
    """A Markdown table of the records, and the commands they came from. Columns that are empty throughout are left out."""
    paths = [path for file in files for path in (sorted(RECORDS.glob(file)) if set(file) & set("*[") else [RECORDS / file])]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [record for each in found for record in (each if isinstance(each, list) else [each])]
    whole = {
        "speeds": speeds,
        "embedders": embedders,
        "reranking": reranking,
        "serving": serving,
        "headline": headline,
        "quickstart": quickstart,
    }
    if view in whole:
        return whole[view](records)
    if view == "rows":
        cells = [[name, *(cell(group) for group in _seeds_together(records))] for name, cell in ROWS.items()]
    else:
        cells = [[name, *(COLUMNS[name](record) for record in records)] for name in VIEWS[view]]
    rows = list(zip(*(column for column in cells if any(column[1:])), strict=True))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    names = ("row_command",) if view in ("rows", "falls") else ("dense_command", "command", "clock_command")
    commands = list(dict.fromkeys(record[name] for record in records for name in names if record.get(name)))
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
    args = parser.parse_args()
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
