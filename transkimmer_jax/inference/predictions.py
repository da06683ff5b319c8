"""What a model said of a list of examples, however it was computed."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Every example in the caller's order.

    logits: [N, num_labels] float32. kept: [layers, N], tokens that each layer computed. lengths: [N], tokens of each example.
    depths: where asked for, how many layers computed each token, one [length] array an example; else None.
    """

    logits: np.ndarray
    kept: np.ndarray
    lengths: np.ndarray
    depths: list[np.ndarray] | None = None
