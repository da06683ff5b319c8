"""Time and memory of `transkimmer predict` from a cold start, of a skimming model and of its dense one, in each runtime.

    python -m tools.processes --model runs/sst2/model --dense runs/sst2/dense/model --input texts.txt --output results/processes.json

Each is a process of its own, from its start to its end; they take turns, and medians count.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from tools import records
from transkimmer_jax.data.records import read_records

# Runtime flags of `transkimmer predict`.
SETTINGS = {
    "onnxruntime float32": ("--provider", "onnxruntime"),
    "onnxruntime int8": ("--provider", "onnxruntime", "--precision", "int8"),
    "openvino float32": ("--provider", "openvino"),
}


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of the skimming model")
    parser.add_argument("--dense", required=True, help="folder of the dense one")
    parser.add_argument("--input", type=pathlib.Path, required=True, help=".txt, a text a line")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(arguments)
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(args.repeats):
        for setting, flags in SETTINGS.items():
            for name, folder in (("dense", args.dense), ("skimming", args.model)):
                run = _process("predict", "--model", folder, "--input", str(args.input), "--quiet", *flags)
                runs.setdefault((setting, name), []).append(run)
                print(setting, name, run, flush=True)
    texts = sum(1 for _ in read_records(args.input))
    command = f"python -m tools.processes --model DIR --dense DIR --input FILE --repeats {args.repeats} --output {args.output}"
    records.write(args.output, [
        {"setting": setting, "model": name, "texts": texts, "command": command}
        | {field: statistics.median(run[field] for run in repeats) for field in repeats[0]}
        for (setting, name), repeats in runs.items()
    ])  # fmt: skip


def _process(*arguments: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile() as answers:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "transkimmer_jax", *arguments, "--output", answers.name])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        sys.exit(f"transkimmer {' '.join(arguments)} ended with status {os.waitstatus_to_exitcode(status)}")
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / 1e3}


if __name__ == "__main__":
    records.start(main)
