"""Hostile model folders: how many are refused in one line, within 10 s and 2 GB.

    python benchmarks/reliability_model_folders.py --output results/reliability/model_folders.json

Each case is a folder of a tiny model of ours with one file damaged (tests/faults says how), loaded as `SkimEngine.from_pretrained` does in
a process of its own. Digests are left out of the folders, so that it is not them alone that find the damage; bits flipped with digests in
place are cases of their own.
"""

import argparse
import importlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SECONDS, MEGABYTES = 10, 2048
CONFIGS, TENSORS, FLIPS = 200, 100, 15
# How a case ends.
REFUSED, LOADED, TRACEBACK, OVER_TIME, OVER_MEMORY = "refused", "loaded", "traceback", "over_time", "over_memory"

Case = tuple[str, str, Callable[[pathlib.Path], None]]  # kind, name, and what is done to a folder


def run(seed: int, scratch: pathlib.Path, configs: int = CONFIGS, tensors: int = TENSORS, flips: int = FLIPS) -> list[dict[str, Any]]:
    """A record for each kind of case: how many were tried, and how they ended."""
    _import_all()
    model = _write_model(scratch / "model")
    records: dict[str, dict[str, Any]] = {}
    for kind, name, damage in _cases(model, seed, configs, tensors, flips):
        folder = scratch / "damaged"
        shutil.copytree(model, folder)
        damage(folder)
        ending, seconds, megabytes, said = _tried(folder)
        shutil.rmtree(folder)
        record = records.setdefault(
            kind, {"kind": kind, "tried": 0, **dict.fromkeys(_ENDINGS, 0), "most_seconds": 0.0, "most_megabytes": 0}
        )
        record["tried"] += 1
        record[ending] += 1
        record["most_seconds"] = max(record["most_seconds"], round(seconds, 2))
        record["most_megabytes"] = max(record["most_megabytes"], megabytes)
        if ending not in (REFUSED, LOADED):
            print(f"{kind}: {name}: {ending} after {seconds:.1f} s, {megabytes} MB: {said}", file=sys.stderr)
        if ending == LOADED:
            record.setdefault("loaded_cases", []).append(name)
    return list(records.values())


_ENDINGS = (REFUSED, LOADED, TRACEBACK, OVER_TIME, OVER_MEMORY)


def _import_all() -> None:
    """What loading needs, once for all the processes that are forked. Nothing here touches a device, which a fork would not survive."""
    for module in (
        "torch",
        "transformers.models.bert.tokenization_bert",
        "transkimmer_jax.inference.engine",
        "transkimmer_jax.data.pipeline",
        "transkimmer_jax.weights.huggingface",
    ):
        importlib.import_module(module)
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)


def _write_model(folder: pathlib.Path) -> pathlib.Path:
    """A tiny skimming model with a tokenizer and a calibration, as training leaves one."""
    from faults.model_folder import write_model

    return write_model(folder)


def _cases(model: pathlib.Path, seed: int, configs: int, tensors: int, flips: int) -> Iterator[Case]:
    from faults import config_faults, folder_faults, safetensors_faults

    def without_digests(file: str, content: bytes) -> Callable[[pathlib.Path], None]:
        def damage(folder: pathlib.Path) -> None:
            (folder / "SHA256SUMS").unlink()
            (folder / file).write_bytes(content)

        return damage

    for file, faults, count in (("config.json", config_faults, configs), ("model.safetensors", safetensors_faults, tensors)):
        whole = (model / file).read_bytes()
        for name, content in faults.mutations(whole, seed, count):
            yield f"{file}, mutated", name, without_digests(file, content)
        for name, make in faults.named(whole).items():
            yield f"{file}, by name", name, without_digests(file, make())
    for kind, name, fault in folder_faults.named():
        yield kind, name, fault
    rng = np.random.default_rng(seed)
    for file in sorted(path.name for path in model.iterdir() if path.name != "README.md"):
        for _ in range(flips):
            yield f"{file}, a bit flipped", *folder_faults.flipped_bit(model / file, rng)


def _tried(folder: pathlib.Path) -> tuple[str, float, int, str]:
    """Load a folder in a process of its own: how that ended, seconds, peak megabytes and what it said."""
    out, into = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(out)
        _load(folder, into)
    os.close(into)
    deadline = started + SECONDS
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
    seconds, megabytes = time.monotonic() - started, usage.ru_maxrss // 1024
    with os.fdopen(out, errors="replace") as pipe:
        said = pipe.read()
    if not ended:
        return OVER_TIME, seconds, megabytes, said
    if megabytes > MEGABYTES:
        return OVER_MEMORY, seconds, megabytes, said
    endings = {0: LOADED, 2: REFUSED}
    return endings.get(os.waitstatus_to_exitcode(status), TRACEBACK), seconds, megabytes, said


def _load(folder: pathlib.Path, into: int) -> None:
    """In the child: load the folder and leave with 0, with 2 for an error of one line, or 1 for anything else."""
    status, said = 1, ""
    try:
        from transkimmer_jax.errors import TranskimmerError
        from transkimmer_jax.inference.engine import SkimEngine

        try:
            SkimEngine.from_pretrained(folder)
            status = 0
        except TranskimmerError as error:
            said = str(error)
            status = 2 if said and len(said.splitlines()) == 1 and len(said) < 10_000 else 1
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:500]
    finally:
        os.write(into, said[:2000].encode("utf-8", "replace"))
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    from benchmarks.record import circumstances
    from transkimmer_jax import files

    with tempfile.TemporaryDirectory() as scratch:
        records = run(args.seed, pathlib.Path(scratch))
    record = {"seed": args.seed, "seconds": SECONDS, "megabytes": MEGABYTES, "records": records} | circumstances()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(args.output, record)
    print(json.dumps(Counter({name: sum(each[name] for each in record["records"]) for name in ("tried", *_ENDINGS)})))


if __name__ == "__main__":
    main()
