"""Tags of words: entities by seqeval where tags begin with B- and I-, else single words."""

import numpy as np

from transkimmer_jax import extras
from transkimmer_jax.data.batches import NO_LABEL
from transkimmer_jax.data.prepared import TagLabels
from transkimmer_jax.data.tasks import are_entities

# Of a single word, and of the last of several: seqeval knows them by the names of IOBES.
_BILOU = {"U-": "S-", "L-": "E-"}


def require_seqeval() -> None:
    """Raises `ConfigError` where entities cannot be scored."""
    with extras.needed("evaluation", "scoring entities"):
        import seqeval  # noqa: F401


def tag_metrics(logits: np.ndarray, labels: TagLabels, tag_names: tuple[str, ...]) -> dict[str, float]:
    """Of the words that were read: accuracy, and of entities precision, recall and F1, each a right one where kind and both ends are right.

    logits: [tokens, tags].
    """
    wanted, given = [], []
    for start, end in zip(labels.offsets, labels.offsets[1:], strict=False):
        rows = start + np.flatnonzero(labels.labels[start:end] != NO_LABEL)
        wanted.append([tag_names[tag] for tag in labels.labels[rows]])
        given.append([tag_names[tag] for tag in logits[rows].argmax(axis=1)] if len(rows) else [])
    pairs = [(a, b) for one, other in zip(wanted, given, strict=True) for a, b in zip(one, other, strict=True)]
    accuracy = float(np.mean([a == b for a, b in pairs])) if pairs else 0.0
    if not are_entities(tag_names):
        return {"accuracy": accuracy}
    require_seqeval()
    from seqeval.metrics import f1_score, precision_score, recall_score

    wanted, given = ([[_BILOU.get(tag[:2], tag[:2]) + tag[2:] for tag in tags] for tags in texts] for texts in (wanted, given))
    scored = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: float(score(wanted, given, zero_division=0)) for name, score in scored.items()} | {"accuracy": accuracy}
