"""A request on its way through the server: read, computed in one batch or several with others, answered."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.serving.models import Reading, ServedModel
from transkimmer_jax.serving.pieces import joined


@dataclasses.dataclass(frozen=True)
class Computed:
    """What became of a request.

    predictions: of its texts, in their order. reading: what they were read as. tokenization, queue, inference: seconds.
    """

    predictions: Predictions
    reading: Reading
    tokenization: float
    queue: float
    inference: float


@dataclasses.dataclass(eq=False)
class Job:
    """One request.

    Args:
      model: that computes.
      inputs: what it reads.
      how: how it reads them: 'texts', 'left' or 'right' (texts, cut at that end where they are too long), 'words' or 'questions'.
      truncate: whether a text may be cut.
      threshold: of the gates.
      tokens: whether states of tokens are asked for.
      future: of the event loop that waits for a `Computed`.
      beside: what messages call the last of its inputs; None: by its number, as the others.
    """

    model: ServedModel
    inputs: Sequence[Any]
    how: str
    truncate: bool
    threshold: float
    tokens: bool
    future: "asyncio.Future[Computed]"
    beside: str | None = None
    is_abandoned: bool = False  # nobody waits any longer
    reading: Reading | None = None
    tokenization: float = 0.0
    submitted: float = dataclasses.field(default_factory=time.perf_counter)  # when it began to wait to be read
    unread: float = 0.0  # seconds that it waited so
    queued: float = 0.0  # when it was read
    started: float = 0.0  # when its first text was taken
    taken: int = 0  # texts that are in batches
    inference: float = 0.0
    computed: list[Predictions] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> tuple[str, bool, float]:
        """Texts of jobs with the same one are computed together."""
        return self.model.name, self.tokens, self.threshold

    @property
    def examples(self) -> TokenizedExamples:
        """Its texts as tokens."""
        assert self.reading is not None
        return self.reading.examples

    def called(self, number: int) -> str:
        """What a message to the client calls one of its inputs."""
        return self.beside if self.beside is not None and number == len(self.inputs) - 1 else f"text {number}"

    def is_read(self, reading: Reading, began: float, seconds: float) -> None:
        """Its texts are tokens now. began: when reading did."""
        self.reading, self.tokenization, self.queued = reading, seconds, time.perf_counter()
        self.unread = began - self.submitted

    def is_computed(self, predictions: Predictions, seconds: float) -> bool:
        """Some of its texts are computed; whether all are."""
        self.computed.append(predictions)
        self.inference += seconds
        return sum(len(part.lengths) for part in self.computed) == len(self.examples)

    def result(self) -> Computed:
        """What became of it."""
        assert self.reading is not None
        return Computed(joined(self.computed), self.reading, self.tokenization, self.unread + self.started - self.queued, self.inference)
