"""Hostile model folders: how many are refused in one line, within 10 s of a processor and 2 GB. A section of benchmarks/reliability.py.

Each case is a folder of a tiny model of ours with one file damaged (tests/faults says how), loaded as `SkimEngine.from_pretrained` does in
a process of its own. Digests are left out of the folders, so that it is not them alone that find the damage; bits flipped with digests in
place are cases of their own.
"""

import contextlib
import importlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from reliability import Tally

# Of a processor, since others may run beside this; a process that waits for ever is ended by the clock.
SECONDS, MEGABYTES = 10, 2048
_CLOCK_SECONDS = 120
# Random damage of these two, for each bit that is flipped in a file.
_CONFIGS, _TENSORS = 14, 7
# How a case ends.
REFUSED, LOADED, TRACEBACK, OVER_LIMITS = "refused", "loaded", "traceback", "over limits"

Case = tuple[str, str, Callable[[pathlib.Path], None]]  # kind, name, and what is done to a folder


def tallies(seed: int, count: int) -> Iterator[Tally]:
    """How cases of each kind ended."""
    from faults.model_folder import write_model

    _import_all()
    with tempfile.TemporaryDirectory() as scratch:
        model, damaged = write_model(pathlib.Path(scratch, "model")), pathlib.Path(scratch, "damaged")
        tally: Tally | None = None
        for kind, name, damage in _cases(model, seed, count):
            if tally is None or tally.fault != kind:
                if tally is not None:
                    yield tally
                tally = Tally(kind, survived=None, seconds=0.0, megabytes=0.0)
            shutil.copytree(model, damaged)
            damage(damaged)
            _count(tally, name, *_tried(damaged))
            shutil.rmtree(damaged)
        if tally is not None:
            yield tally


def _count(tally: Tally, name: str, ending: str, seconds: float, megabytes: float, said: str) -> None:
    tally.injected += 1
    tally.noticed += ending == REFUSED
    tally.harmless += ending == LOADED
    tally.tracebacks += ending == TRACEBACK
    tally.over_limits += ending == OVER_LIMITS
    tally.seconds = max(tally.seconds or 0, round(seconds, 2))
    tally.megabytes = max(tally.megabytes or 0, megabytes)
    if ending != REFUSED:
        print(f"{tally.fault}: {name}: {ending} after {seconds:.1f} s, {megabytes:.0f} MB: {said}", file=sys.stderr)


def _import_all() -> None:
    """What loading needs, once for all the processes that are forked. Nothing here touches a device, which a fork would not survive."""
    for module in (
        "torch",
        "onnxruntime",
        "openvino",
        "transformers.models.bert.tokenization_bert",
        "transkimmer_jax.inference.onnx_runtime",
        "transkimmer_jax.inference.engine",
        "transkimmer_jax.data.pipeline",
        "transkimmer_jax.checkpoints.huggingface",
    ):
        with contextlib.suppress(ImportError):  # of what is optional
            importlib.import_module(module)
    warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)


def _cases(model: pathlib.Path, seed: int, count: int) -> Iterator[Case]:
    """Kind after kind."""
    from faults import config_faults, folder_faults, safetensors_faults

    def without_digests(file: str, content: bytes) -> Callable[[pathlib.Path], None]:
        def damage(folder: pathlib.Path) -> None:
            (folder / "SHA256SUMS").unlink()
            (folder / file).write_bytes(content)

        return damage

    for file, faults, times in (("config.json", config_faults, _CONFIGS), ("model.safetensors", safetensors_faults, _TENSORS)):
        whole = (model / file).read_bytes()
        for name, content in faults.mutations(whole, seed, times * count):
            yield f"{file}, mutated", name, without_digests(file, content)
        for name, make in faults.named(whole).items():
            yield f"{file}, by name", name, without_digests(file, make())
    for kind, name, fault in folder_faults.named():
        yield kind, name, fault
    rng = np.random.default_rng(seed)
    for file in sorted(path.name for path in model.iterdir() if path.name != "README.md"):
        for _ in range(count):
            yield f"{file}, a bit flipped", *folder_faults.flipped_bit(model / file, rng)


def _tried(folder: pathlib.Path) -> tuple[str, float, int, str]:
    """Load a folder in a process of its own: how that ended, a processor's seconds, peak megabytes and what it said."""
    out, into = os.pipe()
    deadline = time.monotonic() + _CLOCK_SECONDS
    child = os.fork()
    if child == 0:
        os.close(out)
        _load(folder, into)
    os.close(into)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
    seconds, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024
    with os.fdopen(out, errors="replace") as pipe:
        said = pipe.read()
    if not ended or seconds > SECONDS or megabytes > MEGABYTES:
        return OVER_LIMITS, seconds, megabytes, said
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
