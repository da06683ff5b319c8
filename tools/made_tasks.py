"""Made data for a tagger and a reader: facts about people within movie reviews.

    python -m tools.made_tasks runs/made
    transkimmer train --config configs/files_tags.py --config.data.train_file=runs/made/tags_train.jsonl \\
        --config.data.test_file=runs/made/tags_test.jsonl --workdir runs/made_tags
    transkimmer train --config configs/files_questions.py --config.data.train_file=runs/made/questions_train.jsonl \\
        --config.data.test_file=runs/made/questions_test.jsonl --config.data.max_length=128 --config.data.doc_stride=32 \\
        --workdir runs/made_questions

Each text has a few facts, 'Anna Kowalski lives in Lima', between sentences of the packaged movie reviews. A tagger finds people and
places. A reader answers where one of the people lives, from contexts of several windows; a fifth of its questions is about somebody else.
"""

import json
import pathlib
import re

import numpy as np

from tools import records
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.sources import load_split
from transkimmer_jax.data.tasks import get_task

FIRST = (
    "Anna", "Boris", "Carla", "David", "Elena", "Frank", "Grace", "Hans", "Ines", "Jonas", "Karin", "Louis", "Maria", "Nils",
    "Olga", "Peter", "Rosa", "Simon", "Tanja", "Victor",
)  # fmt: skip
LAST = (
    "Kowalski", "Meyer", "Silva", "Novak", "Rossi", "Dubois", "Jensen", "Garcia", "Ivanov", "Tanaka", "Okafor", "Singh",
    "Larsen", "Moreau", "Weber", "Costa",
)  # fmt: skip
PLACES = (
    "Lima", "Oslo", "Cairo", "Lagos", "Kyoto", "Paris", "Quito", "Delhi", "Porto", "Milan", "Dakar", "Sofia", "Turin", "Seoul",
    "Perth", "Leeds", "Hanoi", "Malmo", "Tunis", "Bern",
)  # fmt: skip
OUTSIDE, PERSON, MORE_PERSON, PLACE = "O", "B-PERSON", "I-PERSON", "B-PLACE"


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("output", type=pathlib.Path, help="a folder")
    parser.add_argument("--count", type=int, default=1000, help="of training texts, and a fifth as many to test on (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=20, help="of a question's context, beside facts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    task = get_task(DataConfig(task="movie_reviews"))
    reviews = [" ".join(re.findall(r"\w+|[^\w\s]", text)) for text in load_split(task, task.train_split, DataConfig()).texts]
    args.output.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", args.count), ("test", args.count // 5))):
        rng = np.random.default_rng([args.seed, number])
        _write(args.output / f"tags_{split}.jsonl", [tags(rng, reviews) for _ in range(count)])
        _write(args.output / f"questions_{split}.jsonl", [question(rng, reviews, args.sentences) for _ in range(count)])


def facts(rng: np.random.Generator, count: int) -> list[tuple[str, str, str]]:
    """First name, last name and place of different people."""
    columns = [rng.choice(names, count, replace=False).tolist() for names in (FIRST, LAST, PLACES)]
    return list(zip(*columns, strict=True))


def tags(rng: np.random.Generator, reviews: list[str]) -> dict[str, list[str]]:
    """A review's words with one or two facts before or behind them."""
    words, labels = [], []
    for first, last, place in facts(rng, int(rng.integers(1, 3))):
        before = str(rng.choice(reviews)).split()[:12]
        words += [*before, first, last, "lives", "in", place, "."]
        labels += [OUTSIDE] * len(before) + [PERSON, MORE_PERSON, OUTSIDE, OUTSIDE, PLACE, OUTSIDE]
    return {"tokens": words, "tags": labels}


def question(rng: np.random.Generator, reviews: list[str], sentences: int) -> dict[str, object]:
    """Where somebody lives, and a context that says it of three people, or does not say it of the one who is asked for."""
    *told, absent = facts(rng, 4)
    parts = [str(review) for review in rng.choice(reviews, sentences)]
    for first, last, place in told:
        parts.insert(int(rng.integers(len(parts) + 1)), f"{first} {last} lives in {place} .")
    context = " ".join(parts)
    asked = absent if rng.integers(5) == 0 else told[int(rng.integers(3))]
    begins = context.find(f"{asked[0]} {asked[1]} lives in ")
    places: list[str] = []
    starts: list[int] = []
    if begins >= 0:
        places, starts = [asked[2]], [begins + len(f"{asked[0]} {asked[1]} lives in ")]
    return {"question": f"Where does {asked[0]} {asked[1]} live ?", "context": context, "answers": {"text": places, "answer_start": starts}}


def _write(path: pathlib.Path, examples: list[dict]) -> None:
    files.write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in examples))


if __name__ == "__main__":
    records.start(main)
