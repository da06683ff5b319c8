"""What an engine says of texts."""

import dataclasses

import numpy as np

from transkimmer_jax.inference.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the engine says of one text.

    label: the class with the highest logit; for regression the value. logits: [num_labels] float32. probabilities: of each
    class by name; None for regression. tokens: of the text as the model read it. kept: share of them that the layers computed,
    averaged over layers. truncated: the text was longer than the model reads.
    """

    label: str | float
    logits: np.ndarray
    probabilities: dict[str, float] | None
    tokens: int
    kept: float
    truncated: bool


def answers(predictions: Predictions, truncated: np.ndarray, label_names: tuple[str, ...] | None) -> list[Answer]:
    """One for each prediction. truncated: [N] bool. label_names: of the classes; None: LABEL_0 and so on, or of one logit a value."""
    logits = predictions.logits
    shares = predictions.kept.mean(axis=0) / predictions.lengths
    if label_names is None and logits.shape[1] == 1:
        labels: list[str | float] = logits[:, 0].tolist()
        probabilities: list[dict[str, float] | None] = [None] * len(logits)
    else:
        names = label_names or tuple(f"LABEL_{index}" for index in range(logits.shape[1]))
        labels = [names[index] for index in logits.argmax(axis=1)]
        probabilities = [dict(zip(names, row, strict=True)) for row in predictions.probabilities().tolist()]
    columns = (labels, logits, probabilities, predictions.lengths.tolist(), shares.tolist(), truncated.tolist())
    return [Answer(*row) for row in zip(*columns, strict=True)]
