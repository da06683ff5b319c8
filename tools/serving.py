"""Throughput and waiting times of `transkimmer serve` beside its engine, for a skimming model and its dense one.

    python -m tools.serving --model runs/qnli/model --dense runs/qnli/dense/model --task glue/qnli --output results/serving/qnli.json

One server has both models. It has half of the processors, and so has the engine that it is compared with; clients have the others, since in
service they are elsewhere. There are three parts, and --parts measures some of them anew:

busy      closed loops that keep the server busy, by turns with the engine without a server: medians of the rounds behind the first,
          in which both ask for their memory
rates     open loops at rising rates, for throughput at equal waiting times
checked   a thousand clients whose every answer is compared with the engine's, and the server's memory
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tools import records
from tools.traffic import Body, Traffic, body_of, run
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.inference.engine import SkimEngine

_NAMES = ("skimming", "dense")
_PARTS = ("busy", "rates", "checked")
_BUSY = {"one text": (128, 1), "eight texts": (32, 8)}  # clients of a closed loop, and texts of each of their requests
_SHARES = (0.3, 0.5, 0.7, 0.85)  # of the throughput of a busy server, as rates of an open loop
_PERCENTILE = "p95"
_MINUTE = 60.0  # seconds of the clients whose answers are compared

Pairs = list[tuple[str, str]]
Clients = Callable[..., dict[str, Any]]  # `tools.traffic.run`, on processors of their own


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a skimming classifier of pairs")
    parser.add_argument("--dense", required=True, help="folder of its dense one")
    parser.add_argument("--task", required=True, help="glue/<name>: its validation texts")
    parser.add_argument("--data-dir", help="TFDS folder")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="the others are kept as the record has them")
    parser.add_argument("--texts", type=int, default=2000, help="drawn by seed 0 (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=7.0, help="of each measurement but the last, which takes a minute (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=4, help="of the part 'busy', the first of which does not count (default: %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=1000, help="whose answers are compared (default: %(default)s)")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(arguments)
    folders = dict(zip(_NAMES, (args.model, args.dense), strict=True))
    texts = _texts(args)
    record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
    if args.rounds < 2:
        parser.error("--rounds must be at least 2")
    if set(args.parts) != {"busy"} and "busy" not in {*args.parts, *record}:
        parser.error("rates are shares of what a busy server answers: measure the part 'busy', too")
    processors = sorted(os.sched_getaffinity(0))
    half = len(processors) // 2
    if not half:
        sys.exit("server and clients need a processor each, and there is one")

    def clients(*asked: Any, **options: Any) -> dict[str, Any]:
        with _on(processors[half:]):
            return run(*asked, **options)

    # A thread stays where it is started: those of engines and server too.
    with _on(processors[:half]):
        _measure(args, folders, texts, record, clients)
    records.write(args.output, record)


@contextlib.contextmanager
def _on(processors: Sequence[int]) -> Iterator[None]:
    """Run this thread, and what it starts, on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure(args: argparse.Namespace, folders: dict[str, str], texts: Pairs, record: dict[str, Any], clients: Clients) -> None:
    """Measure the parts that are asked for, into `record`."""
    engines = {name: SkimEngine.from_pretrained(folder, precision=args.precision) for name, folder in folders.items()}
    command = records.command()
    about = {"texts": len(texts), "seconds": args.seconds, "command": command, "cores": len(os.sched_getaffinity(0))}
    with _server(args, folders) as (process, url):
        urls = {name: f"{url}/models/{name}/predict" for name in folders}
        if "busy" in args.parts:
            record["busy"] = about | _busy(args, engines, urls, texts, clients)
        if "rates" in args.parts:
            record["rates"] = about | _rates(args, urls, texts, record["busy"], clients)
        if "checked" in args.parts:
            result = clients(urls["skimming"], _bodies(texts, 1, engines["skimming"]), Traffic(_MINUTE, args.clients),
                             labels=engines["skimming"].label_texts)  # fmt: skip
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            record["checked"] = about | result | {"peak_megabytes": int(status.partition("VmHWM:")[2].split()[0]) / 1000}
    engine = engines["skimming"]
    fewer = engine.statistics.dense_flops / engine.statistics.flops if engine.statistics.flops else record["flops_vs_unpadded"]
    record |= {"task": args.task, "precision": args.precision, "flops_vs_unpadded": fewer}


def _texts(args: argparse.Namespace) -> Pairs:
    task, data = get_task(DataConfig(task=args.task)), DataConfig(data_dir=args.data_dir)
    examples = load_split(task, next(iter(task.validation_splits.values())), data)
    rows = np.random.default_rng(0).permutation(len(examples.texts))[: args.texts]
    return [(examples.texts[row], (examples.pairs or [])[row]) for row in rows.tolist()]


def _bodies(texts: Pairs, size: int, engine: SkimEngine | None = None) -> list[Body]:
    """Requests of so many texts, with an engine's answers if there is one."""
    expected = None
    if engine is not None:
        answers = engine.predict(texts, progress=False)
        expected = np.array([list((answer.probabilities or {}).values()) for answer in answers])
    starts = range(0, len(texts), size)
    return [
        Body(body_of("/predict", texts[start : start + size]), len(texts[start : start + size]),
             None if expected is None else expected[start : start + size])
        for start in starts
    ]  # fmt: skip


@contextlib.contextmanager
def _server(args: argparse.Namespace, folders: dict[str, str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process and its address."""
    models = [f"{name}={folder}" for name, folder in folders.items()]
    flags = ["--port", "0", "--max-concurrent-requests", str(args.clients), "--precision", args.precision]
    command = [sys.executable, "-m", "transkimmer_jax", "serve", "--model", *models, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if " on http://" not in line:
                sys.exit(line + process.stderr.read())
            yield process, line.rpartition(" on ")[2].strip()
        finally:
            process.terminate()


def _busy(args: argparse.Namespace, engines: dict[str, SkimEngine], urls: dict[str, str], texts: Pairs, clients: Clients) -> dict[str, Any]:
    """Texts a second of `SkimEngine.predict` and of a busy server, by turns."""
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        rounds.append({})
        for name, engine in engines.items():
            engine.predict(texts[:64], progress=False)
            started = time.perf_counter()
            engine.predict(texts, progress=False)
            offline = len(texts) / (time.perf_counter() - started)
            measured: dict[str, Any] = {"offline": offline}
            for what, (count, size) in _BUSY.items():
                result = clients(urls[name], _bodies(texts, size), Traffic(args.seconds, count))
                speed = result["texts_per_second"]
                measured[what] = {"texts_per_second": speed, "of_offline": speed / offline, "milliseconds": result["milliseconds"]}
            rounds[number][name] = measured
            print(name, measured, flush=True)
    return {"rounds": rounds, "clients": {what: list(sizes) for what, sizes in _BUSY.items()}}


def _rates(args: argparse.Namespace, urls: dict[str, str], texts: Pairs, busy: dict[str, Any], clients: Clients) -> dict[str, Any]:
    """Open loops, and what each model answers while its waiting time is that of the dense one at the third of the rates."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name, url in urls.items():
        most = statistics.median(one[name]["one text"]["texts_per_second"] for one in busy["rounds"][1:])
        results[name] = [clients(url, _bodies(texts, 1), Traffic(args.seconds, rate=share * most)) for share in _SHARES]
        print(name, [(result["texts_per_second"], result["milliseconds"]) for result in results[name]], flush=True)
    waits = {name: [result["milliseconds"][_PERCENTILE] for result in loops] for name, loops in results.items()}
    speeds = {name: [result["texts_per_second"] for result in loops] for name, loops in results.items()}
    limit = waits["dense"][2]
    reached = {name: _reached(waits[name], speeds[name], limit) for name in results}
    return {"loops": results, "equal": {"milliseconds": limit, **reached, "times": reached["skimming"] / reached["dense"]}}


def _reached(waits: list[float], speeds: list[float], limit: float) -> float:
    """The throughput at which waiting times pass a limit, between two rates on a line; the last rate's where they do not."""
    for number, wait in enumerate(waits):
        if wait > limit:
            if number == 0:
                return speeds[0]
            share = (limit - waits[number - 1]) / (wait - waits[number - 1])
            return speeds[number - 1] + share * (speeds[number] - speeds[number - 1])
    return speeds[-1]


if __name__ == "__main__":
    records.start(main)
