"""What a server adds to its engine, and what skimming brings behind HTTP: `transkimmer serve`, asked by `transkimmer load`.

    python benchmarks/serving.py --model runs/qnli/model --dense runs/qnli/dense/model --task glue/qnli --output results/serving/qnli.json

One server has both models. Measured are the engine without a server; a closed loop that keeps the server busy; an open loop at rising
rates, for throughput at equal waiting times; and a thousand clients whose every answer is compared with the engine's. Server and clients
share the processors. `--seconds` is of each measurement, so all of it takes about twelve times as long.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from record import circumstances, portable

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.inference.engine import SkimEngine

_NAMES = ("skimming", "dense")
_BUSY = (("one text", 128, 1), ("eight texts", 32, 8))  # clients of a closed loop, and texts of each of their requests
_SHARES = (0.3, 0.5, 0.7, 0.85)  # of the throughput of a busy server, as rates of an open loop
_PERCENTILE = "p95"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a skimming classifier")
    parser.add_argument("--dense", required=True, help="folder of its dense one")
    parser.add_argument("--task", required=True, help="glue/<name>: its validation texts")
    parser.add_argument("--data-dir", help="TFDS folder")
    parser.add_argument("--texts", type=int, default=2000, help="drawn by seed 0 (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1000, help="whose answers are compared (default: %(default)s)")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    folders = dict(zip(_NAMES, (args.model, args.dense), strict=True))
    texts = _texts(args)
    offline = {name: _offline(folder, texts, args) for name, folder in folders.items()}
    print("offline", offline, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "texts.jsonl")
        files.write_text(path, "".join(json.dumps({"text": text, "other": other}) + "\n" for text, other in texts))
        measured = _measure(args, folders, path, offline)
    command = shlex.join(["python", "benchmarks/serving.py", *sys.argv[1:]])
    files.write_json(args.output, {
        "task": args.task, "texts": len(texts), "precision": args.precision, "seconds": args.seconds, **circumstances(),
        "command": portable(command), "offline": offline, **measured,
    })  # fmt: skip


def _texts(args: argparse.Namespace) -> list[tuple[str, str]]:
    task, data = get_task(DataConfig(task=args.task)), DataConfig(data_dir=args.data_dir)
    examples = load_split(task, next(iter(task.validation_splits.values())), data)
    rows = np.random.default_rng(0).permutation(len(examples.texts))[: args.texts]
    return [(examples.texts[row], (examples.pairs or [])[row]) for row in rows.tolist()]


def _offline(folder: str, texts: list[tuple[str, str]], args: argparse.Namespace) -> dict[str, float]:
    """Texts a second of `SkimEngine.predict`, which reads and computes them all: the median of three calls behind one."""
    engine = SkimEngine.from_pretrained(folder, precision=args.precision)
    engine.predict(texts[:64], progress=False)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        answers = engine.predict(texts, progress=False)
        seconds.append(time.perf_counter() - started)
    spent, dense = engine.statistics.flops, engine.statistics.dense_flops
    kept = float(np.mean([answer.kept for answer in answers]))
    return {"texts_per_second": len(texts) / float(np.median(seconds)), "flops_vs_unpadded": dense / spent, "kept": kept}


def _measure(args: argparse.Namespace, folders: dict[str, str], path: pathlib.Path, offline: dict[str, Any]) -> dict[str, Any]:
    models = [f"{name}={folder}" for name, folder in folders.items()]
    flags = ["--port", "0", "--max-concurrent-requests", str(args.clients), "--precision", args.precision]
    command = [sys.executable, "-m", "transkimmer_jax", "serve", "--model", *models, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            line = server.stderr.readline()
            if " on http://" not in line:
                sys.exit(line + server.stderr.read())
            url = line.rpartition(" on ")[2].strip()

            def load(name: str, *more: str, seconds: float = args.seconds) -> dict[str, Any]:
                result = _load("--url", url, "--route", f"/models/{name}/predict", "--input", str(path), "--seconds", str(seconds), *more)
                print(name, *more, {key: result.get(key) for key in ("texts_per_second", "milliseconds", "statuses")}, flush=True)
                return result

            busy: dict[str, Any] = {}
            for what, clients, size in _BUSY:
                busy[what] = {name: load(name, "--clients", str(clients), "--texts-per-request", str(size)) for name in folders}
                for name, result in busy[what].items():
                    result["of_offline"] = result["texts_per_second"] / offline[name]["texts_per_second"]
            most = {name: busy["one text"][name]["texts_per_second"] for name in folders}
            rates = {name: [load(name, "--rate", f"{share * most[name]:.1f}") for share in _SHARES] for name in folders}
            check = ["--check", folders["skimming"], "--precision", args.precision]
            checked = load("skimming", "--clients", str(args.clients), *check, seconds=3 * args.seconds)
            status = pathlib.Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
        finally:
            server.terminate()
        ended = server.wait(60)
    return {
        "busy": busy, "rates": rates, "equal": _at_equal_waiting(rates), "checked": checked, "peak_megabytes": peak, "exit_status": ended,
    }  # fmt: skip


def _load(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "transkimmer_jax", "load", "--text-columns", "text", "other", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    result = json.loads(done.stdout)
    return {name: value for name, value in result.items() if name != "command"}


def _at_equal_waiting(rates: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """What each model answers while its 95th percentile is the dense model's at the middle of the rates; between two rates on a line."""
    waits = {name: [result["milliseconds"][_PERCENTILE] for result in results] for name, results in rates.items()}
    speeds = {name: [result["texts_per_second"] for result in results] for name, results in rates.items()}
    limit = waits["dense"][len(_SHARES) // 2]
    reached = {name: _reached(waits[name], speeds[name], limit) for name in rates}
    return {"milliseconds": limit, **reached, "times": reached["skimming"] / reached["dense"]}


def _reached(waits: list[float], speeds: list[float], limit: float) -> float:
    """The throughput at which waiting times pass a limit; the greatest that was measured where they do not."""
    for number, wait in enumerate(waits):
        if wait > limit:
            if number == 0:
                return speeds[0]
            share = (limit - waits[number - 1]) / (wait - waits[number - 1])
            return speeds[number - 1] + share * (speeds[number] - speeds[number - 1])
    return speeds[-1]


if __name__ == "__main__":
    main()
