"""Agreement of a student with its teacher, on texts without labels."""

import numpy as np
import scipy.special

from transkimmer_jax.data.tasks import Task
from transkimmer_jax.evaluation.scores import micro_f1, pearson, spearman
from transkimmer_jax.inference.predictions import Predictions, decisions
from transkimmer_jax.inference.vectors import neighbours, unit

NEIGHBOURS = 10  # of each text, the nearest others by the vectors' similarity


def compute_agreement(task: Task, student: Predictions, teacher: Predictions) -> dict[str, float]:
    """The task's metrics of a student against its teacher, both of the same texts.

    agreement: the share of texts, or of tokens, with the same label; of questions, of windows with the same first and last token; of a
    multi-label task, of all labels of all texts that both say or both do not.
    divergence: the mean Kullback-Leibler divergence from the teacher's probabilities, in nats; of a multi-label task over all labels.
    micro_f1: of a multi-label task, F1 of the student's labels where the teacher's are right; 1 where neither says any.
    pearson, spearman: of the values of a regression.
    cosine: the mean cosine of a student's and a teacher's vector. neighbours: the share of each text's `NEIGHBOURS` nearest texts that
    both vectors agree on.

    Raises:
      ValueError: no text at all.
    """
    if not len(student.lengths):
        raise ValueError("no text to compare student and teacher on")
    if task.head == "sentence_embedding":
        return _of_vectors(student.outputs["sentence_embedding"], teacher.outputs["sentence_embedding"])
    if task.head == "question_answering":
        return _of_spans(student, teacher)
    if task.is_regression:
        values, wanted = student.logits[:, 0], teacher.logits[:, 0]
        return {"pearson": float(pearson(wanted, values)), "spearman": float(spearman(wanted, values))}
    if task.multi_label:
        return _of_label_sets(student.logits, teacher.logits)
    return _of_labels(student.logits, teacher.logits)


def _of_label_sets(logits: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Of texts that have any number of labels, [N, labels] each."""
    given, wanted = (decisions(values, multi_label=True) for values in (logits, teacher))
    # A label is said, or it is not: two classes with the logits 0 and the label's.
    apart = _divergence(*(np.stack([np.zeros_like(values), values], axis=-1) for values in (logits, teacher)))
    return {
        "micro_f1": micro_f1(wanted, given, undefined=1.0),
        "agreement": float((given == wanted).mean()),
        "divergence": float(apart.mean()),
    }


def _of_labels(logits: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Of texts or of tokens, [..., labels] each."""
    same = decisions(logits) == decisions(teacher)
    return {"agreement": float(same.mean()), "divergence": float(_divergence(logits, teacher).mean())}


def _divergence(logits: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Of distributions along the last axis, [...]."""
    wanted, given = (scipy.special.log_softmax(values.astype(np.float64), axis=-1) for values in (teacher, logits))
    return np.sum(np.exp(wanted) * (wanted - given), axis=-1)


def _of_spans(student: Predictions, teacher: Predictions) -> dict[str, float]:
    same, divergence = np.ones(len(student.lengths), bool), np.zeros(len(student.lengths))
    for name in ("start_logits", "end_logits"):
        for number, (values, wanted) in enumerate(zip(student.by_text(name), teacher.by_text(name), strict=True)):
            same[number] &= np.argmax(values) == np.argmax(wanted)
            divergence[number] += _divergence(values, wanted) / 2
    return {"agreement": float(same.mean()), "divergence": float(divergence.mean())}


def _of_vectors(vectors: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    given, wanted = (unit(values.astype(np.float32)) for values in (vectors, teacher))
    cosine = float(np.mean(np.sum(given * wanted, axis=1)))
    if len(given) == 1:
        return {"cosine": cosine, "neighbours": 1.0}
    nearest = [neighbours(values, NEIGHBOURS) for values in (given, wanted)]
    shared = sum(len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True))
    return {"cosine": cosine, "neighbours": shared / nearest[0].size}
