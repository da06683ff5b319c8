"""Answers to questions as SQuAD scores them (Rajpurkar et al., 2016 and 2018): exact match and F1 of words, both of normalised texts."""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

from transkimmer_jax.data.prepared import QuestionLabels
from transkimmer_jax.inference import answers
from transkimmer_jax.inference.predictions import Predictions

LONGEST_ANSWER = 30  # tokens
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, words one space apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, wanted: str) -> float:
    """1 where the normalised texts are the same."""
    return float(normalized(given) == normalized(wanted))


def word_f1(given: str, wanted: str) -> float:
    """F1 of the words that both hold; where one holds none, whether both do."""
    first, second = normalized(given).split(), normalized(wanted).split()
    if not first or not second:
        return float(first == second)
    common = sum((collections.Counter(first) & collections.Counter(second)).values())
    if not common:
        return 0.0
    precision, recall = common / len(first), common / len(second)
    return 2 * precision * recall / (precision + recall)


def scores(given: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean over questions of the best score with any of its answers. given: '' for no answer. answers: of each question; none where the
    context does not say."""
    metrics = {"f1": word_f1, "exact_match": exact_match}
    return {
        # As the official script: an answer that normalises to nothing counts for no answer.
        name: float(np.mean([max(metric(text, wanted) for wanted in _wanted(texts)) for text, texts in zip(given, answers, strict=True)]))
        for name, metric in metrics.items()
    }


def _wanted(texts: Sequence[str]) -> Sequence[str]:
    return [text for text in texts if normalized(text)] or [""]


def question_metrics(predictions: Predictions, labels: QuestionLabels) -> dict[str, float]:
    """F1 and exact match of a reader; where some question has no answer, none is given where that scores higher."""
    limit = None if all(answers.texts for answers in labels.answers) else 0.0
    answered = answers.answered(predictions, labels.windows, labels.contexts, LONGEST_ANSWER, limit)
    return scores([answer.text for answer in answered], [answers.texts for answers in labels.answers])
