"""Hostile inputs through the real commands and the Python API: each is answered, or refused in one line, within the time and the memory.

Files go through `predict`, `evaluate --data` and what `train.py` loads with data.task=files; calls go to an engine and its model. A small
random model answers, all in one process. Lines of 50 MB are read by processes of their own, with pretrained weights.
"""

import contextlib
import io
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import absl.logging
from faults import input_faults
from reliability import ROOT, Tally

from transkimmer_jax import TranskimmerForSequenceClassification, cli
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data import pipeline, sources
from transkimmer_jax.data.tasks import get_task
from transkimmer_jax.inference.engine import SkimEngine

# Of the processor, with the programs that are compiled for an input; and beyond what the process had before.
_SECONDS, _MEGABYTES = 30.0, 2000.0
_MUTANTS, _CALLS = 4, 25  # for each of `count`
_LINE_BYTES, _LINE_TOKENS = 50_000_000, 48
_LINE_SECONDS, _LINE_MEGABYTES = 20.0, 1000.0  # of the process as a whole

# Runs a command, and tells in a last line of JSON what that took.
_MEASURING = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": usage.ru_utime + usage.ru_stime, "kilobytes": usage.ru_maxrss}))
"""

Case = tuple[str, Callable[[], Any]]  # its name, and what is tried


class _TooLong(Exception):
    """An input that took more than `_SECONDS`."""


def tallies(seed: int, count: int) -> Iterator[Tally]:
    """As `reliability.Section`. Noticed is what was refused in one line, survived what was answered. Each known fault is there once, and
    beside these `_MUTANTS` random files and `_CALLS` random calls for each of `count`."""
    absl.logging.set_verbosity(absl.logging.FATAL)  # as the commands do
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = input_faults.save_model(folder / "model")

        def made(kind: str) -> Iterator[pathlib.Path]:
            place = folder / kind
            place.mkdir()
            for hostile in input_faults.hostile_files(seed, _MUTANTS * count):
                hostile.make(place / hostile.name)
                yield place / hostile.name

        yield _tried("files to predict", ((path.name, _predicting(model, path)) for path in made("predict")))
        yield _tried("files to evaluate", ((path.name, _evaluating(model, path)) for path in made("evaluate")))
        yield _tried("files to train on", ((path.name, _loading(model, path)) for path in made("train")))
        engine = SkimEngine.from_pretrained(model)
        module = TranskimmerForSequenceClassification.from_pretrained(model, dense=None)
        calls = input_faults.hostile_calls(seed, _CALLS * count)
        yield _tried("calls of the Python API", ((one.name, lambda one=one: one.call(engine, module)) for one in calls))
    yield from _long_lines()


def _predicting(model: pathlib.Path, path: pathlib.Path) -> Callable[[], None]:
    def predict() -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            cli.main(["predict", "--model", str(model), "--input", str(path), "--quiet"])
        for line in said.getvalue().splitlines():
            json.loads(line, parse_constant=_refuse)

    return predict


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _evaluating(model: pathlib.Path, path: pathlib.Path) -> Callable[[], None]:
    return lambda: cli.main(["evaluate", "--model", str(model), "--data", str(path)])


def _loading(model: pathlib.Path, path: pathlib.Path) -> Callable[[], None]:
    def load() -> None:
        data = DataConfig(task="files", train_file=str(path), text_columns=("text",))
        task = get_task(data)
        pipeline.tokenize(sources.load_split(task, task.train_split, data), pipeline.load_tokenizer(model), task.max_length)

    return load


def _tried(kind: str, cases: Iterable[Case]) -> Tally:
    tally = Tally(kind, seconds=0.0, megabytes=0.0)
    for name, call in cases:
        before, started = _peak_megabytes(), time.process_time()
        with _within(_SECONDS), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            said = input_faults.outcome(call)
        seconds, grown = time.process_time() - started, _peak_megabytes() - before
        assert tally.seconds is not None and tally.megabytes is not None
        tally.seconds, tally.megabytes = max(tally.seconds, round(seconds, 2)), max(tally.megabytes, round(grown, 1))
        tally.injected += 1
        if said.startswith(f"traceback: {_TooLong.__name__}") or grown > _MEGABYTES:
            tally.over_limits += 1
        elif said == "answered":
            tally.survived += 1
        elif said == "refused":
            tally.noticed += 1
        else:
            tally.tracebacks += 1
        if tally.injected != tally.survived + tally.noticed and said not in ("answered", "refused"):
            print(f"{kind}: {name!r:.80}: {said}", flush=True)
    return tally


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Of the processor's time: what else the machine does is not the input's fault."""

    def stop(*_: Any) -> None:
        raise _TooLong(f"more than {seconds} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _long_lines() -> Iterator[Tally]:
    """`predict` from a cold start to its answer; seconds are of the processor."""
    models = os.environ.get("TRANSKIMMER_TEST_MODELS")
    pretrained = os.path.join(models, "minilm-6l") if models else "packaged:minilm-6l"
    sentence = "a gorgeous, witty, seductive movie that never quite comes to life . "
    half = sentence * (_LINE_BYTES // len(sentence) // 2 + 1)
    lines = {
        f"a line of 50 MB, of which {_LINE_TOKENS} tokens are read": 2 * half,
        "the same with one emoji, for which Python takes 4 bytes a character": half + "\U0001f600 " + half,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        classifier = TranskimmerForSequenceClassification.from_pretrained(pretrained, dense=True)
        classifier.save_pretrained(folder / "model", tokenizer=pipeline.load_tokenizer(resolve(pretrained)))
        for kind, text in lines.items():
            path = folder / "line.jsonl"
            path.write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
            yield _long_line(kind, folder / "model", path)


def _long_line(kind: str, model: pathlib.Path, path: pathlib.Path) -> Tally:
    command = [sys.executable, "-m", "transkimmer_jax", "predict", "--model", str(model), "--input", str(path), "--quiet"]
    # Linux counts the memory of the process that starts another as this one's own, and this process has loaded a model.
    measuring = [sys.executable, "-c", _MEASURING, *command, "--max-length", str(_LINE_TOKENS)]
    said = subprocess.run(measuring, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    *answers, usage = map(json.loads, said.splitlines())
    answer = answers[0] if answers else {}
    is_right = answer.get("tokens") == _LINE_TOKENS and answer.get("truncated") is True
    seconds, megabytes = round(usage["seconds"], 1), round(usage["kilobytes"] * 1024 / 1e6, 1)
    return Tally(
        kind,
        injected=1,
        noticed=int(is_right),  # `truncated` says so
        survived=int(is_right),
        wrong=int(not is_right),
        over_limits=int(seconds > _LINE_SECONDS or megabytes > _LINE_MEGABYTES),
        seconds=seconds,
        megabytes=megabytes,
    )
