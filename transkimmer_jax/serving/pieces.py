"""Examples and predictions of several requests, put together for a batch and taken apart again."""

from collections.abc import Sequence

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples
from transkimmer_jax.inference.predictions import Predictions


def sliced(examples: TokenizedExamples, start: int, stop: int) -> TokenizedExamples:
    """The examples from `start` to `stop`, without a copy of their tokens."""
    first, last = examples.offsets[start], examples.offsets[stop]
    return TokenizedExamples(
        examples.input_ids[first:last],
        examples.token_type_ids[first:last],
        examples.offsets[start : stop + 1] - first,
        examples.labels[start:stop],
        examples.truncated[start:stop],
    )


def divided(predictions: Predictions, counts: Sequence[int]) -> list[Predictions]:
    """The predictions of the first so many texts, of the next so many, and so on."""
    texts = np.cumsum([0, *counts])
    tokens = np.concatenate([[0], np.cumsum(predictions.lengths)])[texts]
    parts = []
    for part in range(len(counts)):
        rows = {len(predictions.lengths): slice(*texts[part : part + 2])}
        # Of as many tokens as texts part text is one token, and both slices are the same.
        rows[int(tokens[-1])] = slice(*tokens[part : part + 2])
        own = slice(*texts[part : part + 2])
        outputs = {name: values[rows[len(values)]] for name, values in predictions.outputs.items()}
        parts.append(Predictions(outputs, predictions.kept[:, own], predictions.lengths[own]))
    return parts


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of all texts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Predictions(
        {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs},
        np.concatenate([part.kept for part in parts], axis=1),
        np.concatenate([part.lengths for part in parts]),
    )
