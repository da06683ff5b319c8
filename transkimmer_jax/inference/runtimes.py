"""What an engine asks of a runtime, which is where its network is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.predictions import Predictions


@dataclasses.dataclass
class Statistics:
    """What an engine has done so far: texts answered and cut, their tokens, FLOPs spent, and those of the dense model without padding;
    batches run; of the runtime with programs of fixed shapes, batches that lost texts, texts run again, and programs compiled."""

    examples: int = 0
    truncated: int = 0
    tokens: int = 0
    flops: float = 0.0
    dense_flops: float = 0.0
    batches: int = 0
    overflows: int = 0
    again: int = 0
    programs: int = 0
    compile_seconds: float = 0.0


class Runtime(Protocol):
    """Computes a model on token ids, compacted and exact."""

    name: str
    statistics: Statistics

    def predict(self, examples: TokenizedExamples, threshold: float, progress: bool) -> Predictions:
        """Every example, in their order. progress: with a bar."""

    def expect(self, calibration: Calibration) -> None:
        """Prepare for texts like those of a calibration. Answers do not depend on it."""

    def warm_up(self, lengths: Sequence[int] | None, progress: bool) -> None:
        """Do ahead of time what the first texts of these lengths would wait for; None: of any. progress: with a bar."""
