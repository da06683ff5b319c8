"""Sentences without labels, for a teacher to label (`distill.unlabelled_file`): IMDB's training reviews, cut at full stops.

    python benchmarks/unlabelled.py runs/sentences.txt [--count 100000 --seed 0]

What the reviews' authors thought of the films is not read.
"""

import argparse
import pathlib
import re

import numpy as np

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task

# Of words; SST-2's sentences have up to 52.
_SHORTEST, _LONGEST = 4, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="a .txt file, a sentence a line")
    parser.add_argument("--count", type=int, default=100_000, help="sentences, drawn by seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.output, args.count, args.seed)


def write(path: pathlib.Path, count: int, seed: int = 0) -> None:
    """Write `count` sentences, or exit where there are fewer."""
    data = DataConfig(task="imdb_reviews")
    task = get_task(data)
    sentences = [
        " ".join(sentence.split())
        for review in load_split(task, task.train_split, data).texts
        for sentence in re.split(r"<br />|(?<=[.!?])\s", review)
    ]
    sentences = [sentence for sentence in sentences if _SHORTEST <= len(sentence.split()) <= _LONGEST]
    if count > len(sentences):
        raise SystemExit(f"{count} sentences were asked for, and there are {len(sentences)}")
    drawn = np.random.default_rng(seed).permutation(len(sentences))[:count]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(f"{sentences[row]}\n" for row in drawn))


if __name__ == "__main__":
    main()
