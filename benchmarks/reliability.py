"""Inject faults from a seed, and record what became of each: the long version of what the tests do with few.

    python benchmarks/reliability.py SECTION [--seed 0] [--count 15]

writes results/reliability/SECTION.json, a row for each kind of fault, as they come. docs/reliability.md shows them
(`python benchmarks/tables.py` makes its table), and says what each section covers.
"""

import argparse
import dataclasses
import importlib
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Protocol

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The mutators are those of the tests.
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from record import circumstances  # noqa: E402

from transkimmer_jax import files  # noqa: E402

# Each is a module beside this one with a function `tallies`.
SECTIONS = {"checkpoints": "reliability_checkpoints", "model_folders": "reliability_model_folders", "inputs": "reliability_inputs"}


@dataclasses.dataclass
class Tally:
    """What became of the faults of one kind.

    noticed: named in a line of the program. survived: and the right answer came in the end; None where nothing goes on. wrong: answers
    that were not, without a word. harmless: not noticed, since what is there may be meant. over_limits: took more time or memory than the
    section allows. seconds, megabytes: the most that one of them took.
    """

    fault: str
    injected: int = 0
    noticed: int = 0
    survived: int | None = 0
    wrong: int = 0
    harmless: int = 0
    tracebacks: int = 0
    over_limits: int = 0
    seconds: float | None = None
    megabytes: float | None = None


class Section(Protocol):
    """What a module of `SECTIONS` offers."""

    def tallies(self, seed: int, count: int) -> Iterator[Tally]:
        """Inject faults; a tally for each kind, as soon as it is complete. count: of those that are drawn at random, for each kind."""
        ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=15, help="random faults of each kind (default: %(default)s)")
    args = parser.parse_args()
    section: Section = importlib.import_module(SECTIONS[args.section])  # type: ignore[assignment]
    made = {"section": args.section, "seed": args.seed, "command": shlex.join(["python", "benchmarks/reliability.py", *sys.argv[1:]])}
    made |= circumstances()
    rows = []
    for tally in section.tallies(args.seed, args.count):
        print(tally, flush=True)
        rows.append({**dataclasses.asdict(tally), **made})
        files.write_json(ROOT / "results" / "reliability" / f"{args.section}.json", rows)
    return 1 if any(row["wrong"] or row["tracebacks"] or row["over_limits"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
