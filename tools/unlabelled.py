"""Texts without labels, for a teacher to label (`distill.unlabelled_file`).

    python -m tools.unlabelled sentences runs/sentences.txt --count 100000
    python -m tools.unlabelled own runs/own.jsonl --task glue/stsb
    python -m tools.unlabelled neighbours runs/neighbours.jsonl --task glue/stsb --count 10000
    python -m tools.unlabelled edits runs/edits.txt --task glue/cola --count 30000
    python -m tools.unlabelled texts runs/texts.txt --count 60000

Sentences are cut from IMDB's training reviews, at full stops, without the reviews' ratings. Own texts are the task's training texts without
labels. Neighbours pair each first text of the task with second ones near it in an embedder's space (Thakur et al., 2021). Edits are a
task's training sentences with a word or two left out, moved, doubled or replaced (after Jiao et al., 2020). Texts, for embedders, are
those of all training sets of pairs, one by one, and sentences for the rest. No task is scored on any of them.
"""

import json
import pathlib
import re
from collections.abc import Callable

import numpy as np

from tools import records
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.examples import Examples
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import Task, get_task
from transkimmer_jax.inference.engine import SkimEngine

# Of words; SST-2's sentences have up to 52.
_SHORTEST, _LONGEST = 4, 50
_EMBEDDER = "packaged:minilm-6l"
# Of a text's neighbours, those that it is paired with: near ones and farther ones.
_RANKS = (0, 1, 2, 4, 8, 16, 64, 256)
_SINGLE_TASKS = ("glue/cola", "glue/sst2", "imdb_reviews")
_PAIR_TASKS = ("glue/mrpc", "glue/qnli", "glue/rte", "glue/stsb")


def write_sentences(path: pathlib.Path, count: int, seed: int = 0) -> None:
    """Write `count` sentences, or exit where there are fewer."""
    _write(path, _sentences(), count, seed)


def _sentences() -> list[str]:
    task = get_task(DataConfig(task="imdb_reviews"))
    sentences = [
        " ".join(sentence.split())
        for review in _examples(task, task.train_split).texts
        for sentence in re.split(r"<br />|(?<=[.!?])\s", review)
    ]
    return [sentence for sentence in sentences if _SHORTEST <= len(sentence.split()) <= _LONGEST]


def write_texts(path: pathlib.Path, count: int, seed: int = 0) -> None:
    """Write `count` texts, or exit where there are fewer."""
    read: dict[str, None] = {}
    scored: set[str] = set()
    for name in _PAIR_TASKS:
        task = get_task(DataConfig(task=name))
        examples = _examples(task, task.train_split)
        read |= dict.fromkeys([*examples.texts, *_seconds(examples)])
        scored |= _scored(task)
    texts = [text for text in read if text not in scored]
    sentences = _sentences()
    rest = np.random.default_rng(seed).permutation(len(sentences))[: max(0, count - len(texts))]
    _write(path, texts + [sentences[row] for row in rest], count, seed)


def write_own(path: pathlib.Path, task: Task) -> None:
    """Write the training texts or pairs of `task`, none of which has a text that is scored."""
    scored, examples = _scored(task), _examples(task, task.train_split)
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    rows = [row for row in dict.fromkeys(zip(*columns, strict=True)) if scored.isdisjoint(row)]
    _write(path, [json.dumps(dict(zip(task.text_columns, row, strict=True)), ensure_ascii=False) for row in rows], len(rows), 0)


def write_neighbours(path: pathlib.Path, task: Task, count: int, seed: int = 0) -> None:
    """Write `count` pairs in the columns of `task`, or exit where there are fewer."""
    scored, examples = _scored(task), _examples(task, task.train_split)
    firsts, seconds = (list(dict.fromkeys(text for text in texts if text not in scored)) for texts in (examples.texts, _seconds(examples)))
    engine = SkimEngine.from_pretrained(_EMBEDDER, dense=True, pooling="mean")
    similarities = engine.encode(firsts, normalize_embeddings=True) @ engine.encode(seconds, normalize_embeddings=True).T
    near = np.argsort(-similarities, axis=1)[:, : max(_RANKS)]
    known = set(zip(examples.texts, _seconds(examples), strict=True))
    ranked = ((first, row[rank]) for first, row in zip(firsts, near, strict=True) for rank in _RANKS if rank < len(row))
    pairs = dict.fromkeys((first, seconds[second]) for first, second in ranked)
    new = [pair for pair in pairs if pair not in known and pair[0] != pair[1]]
    _write(path, [json.dumps(dict(zip(task.text_columns, pair, strict=True)), ensure_ascii=False) for pair in new], count, seed)


def write_edits(path: pathlib.Path, task: Task, count: int, seed: int = 0) -> None:
    """Write `count` edited sentences of `task`, none of them a training text or one that is scored."""
    rng = np.random.default_rng(seed)
    texts = _examples(task, task.train_split).texts
    sentences = [text.split() for text in texts]
    known = _scored(task) | set(texts)
    edits: dict[str, None] = {}
    while len(edits) < count:
        words = list(sentences[rng.integers(len(sentences))])
        for _ in range(rng.integers(1, 3)):
            words = _edited(words, sentences[rng.integers(len(sentences))], rng)
        text = " ".join(words)
        if text not in known:
            edits[text] = None
    _write(path, list(edits), count, seed)


def _edited(words: list[str], other: list[str], rng: np.random.Generator) -> list[str]:
    """`words` with one left out, moved, doubled, or replaced by one of `other`."""
    place, goal = rng.integers(len(words), size=2)
    word, rest = words[place], [*words[:place], *words[place + 1 :]]
    if len(words) == 1:
        return [word, other[rng.integers(len(other))]]
    return [
        rest,
        [*rest[:goal], word, *rest[goal:]],
        [*words[:goal], word, *words[goal:]],
        [*words[:place], other[rng.integers(len(other))], *words[place + 1 :]],
    ][rng.integers(4)]


def _scored(task: Task) -> set[str]:
    """The texts on which a task is scored."""
    splits = [_examples(task, split) for split in (*task.validation_splits.values(), *task.test_splits.values())]
    return {text for examples in splits for text in (*examples.texts, *(examples.pairs or []))}


def _examples(task: Task, split: str) -> Examples:
    return load_split(task, split, DataConfig(task=task.name))


def _seconds(examples: Examples) -> list[str]:
    assert examples.pairs is not None
    return examples.pairs


def _write(path: pathlib.Path, lines: list[str], count: int, seed: int) -> None:
    if count > len(lines):
        raise SystemExit(f"{count} were asked for, and there are {len(lines)}")
    drawn = np.random.default_rng(seed).permutation(len(lines))[:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(f"{lines[row]}\n" for row in drawn))


# Kind -> what writes it, the tasks of which one is to be named, how many are drawn unless told, help.
_KINDS: dict[str, tuple[Callable[..., None], tuple[str, ...], int | None, str]] = {
    "sentences": (write_sentences, (), 100_000, "for tasks of single texts: a .txt file, a sentence a line"),
    "own": (write_own, _SINGLE_TASKS + _PAIR_TASKS, None, "a task's own training texts: a .jsonl file"),
    "neighbours": (write_neighbours, _PAIR_TASKS, 10_000, "for a task of pairs: a .jsonl file of its own training texts, paired anew"),
    "edits": (write_edits, _SINGLE_TASKS, 30_000, "for a task of single texts: a .txt file of its own training sentences, edited"),
    "texts": (write_texts, (), 60_000, "for embedders: a .txt file, a text a line"),
}


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, (_, tasks, count, told) in _KINDS.items():
        kind = kinds.add_parser(name, help=told, description=told)
        kind.add_argument("output", type=pathlib.Path)
        if tasks:
            kind.add_argument("--task", choices=tasks, required=True)
        if count:
            kind.add_argument("--count", type=int, default=count, help="drawn by seed (default: %(default)s)")
            kind.add_argument("--seed", type=int, default=0)
    args = vars(parser.parse_args(arguments))
    write, path = _KINDS[args.pop("kind")][0], args.pop("output")
    if "task" in args:
        args["task"] = get_task(DataConfig(task=args["task"]))
    write(path, **args)


if __name__ == "__main__":
    records.start(main)
