"""The tasks: their columns, labels, lengths in the literature, splits and the names of their official metrics."""

import dataclasses
import difflib
from typing import Literal

from transkimmer_jax.config import DataConfig
from transkimmer_jax.data.files import holds_lists, infer_label_sets, infer_labels, infer_tags
from transkimmer_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Task:
    """A task: columns of texts, labels, splits and metrics."""

    name: str  # 'glue/sst2'
    text_columns: tuple[str, ...]  # one, or two for pairs
    label_names: tuple[str, ...] | None  # None: regression, or a head without labels
    max_length: int  # tokens kept of an example, special tokens included
    metrics: tuple[str, ...] = ("accuracy",)  # the first is the primary one
    label_column: str = "label"
    train_split: str = "train"
    validation_splits: dict[str, str] = dataclasses.field(default_factory=lambda: {"validation": "validation"})  # name in reports -> split
    test_splits: dict[str, str] = dataclasses.field(default_factory=dict)  # more texts, on which no choice is made
    head: str = "sequence_classification"  # one of `heads.HEADS`
    multi_label: bool = False  # whether a text has any number of labels
    judge: Literal["labels", "teacher"] = "labels"  # the reference of the metrics
    prompt: str = ""  # `prepare` puts it before every text

    @property
    def num_labels(self) -> int:
        """Width of the logits; 1 for regression, 2 for the ends of an answer."""
        if self.head == "question_answering":
            return 2
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def texts_are_apart(self) -> bool:
        """Whether columns are texts of their own, and no pair: an embedder reads one text at a time."""
        return self.head == "sentence_embedding"

    @property
    def is_regression(self) -> bool:
        return self.head == "sequence_classification" and self.label_names is None

    @property
    def is_pair(self) -> bool:
        return len(self.text_columns) == 2 and not self.texts_are_apart

    @property
    def primary_metric(self) -> str:
        return self.metrics[0]


_SENTENCE = ("sentence",)
_SENTENCES = ("sentence1", "sentence2")
_SENTIMENT = ("negative", "positive")
_NEWSGROUPS = (
    "alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware", "comp.sys.mac.hardware", "comp.windows.x",
    "misc.forsale", "rec.autos", "rec.motorcycles", "rec.sport.baseball", "rec.sport.hockey", "sci.crypt", "sci.electronics", "sci.med",
    "sci.space", "soc.religion.christian", "talk.politics.guns", "talk.politics.mideast", "talk.politics.misc", "talk.religion.misc",
)  # fmt: skip
_ENTAILMENT = ("entailment", "not_entailment")
_QUESTION = ("question", "context")
_OF_ANSWERS = ("f1", "exact_match")
# GLUE's test splits hide their labels. Prepared data may hold those of MRPC and STS-B, which TFDS's own download hides as well.
_TEST = {"test": "test"}

# Label orders are those of the TFDS builders; lengths are the padded lengths of the literature (docs/design.md, section 2.2).
_TASKS = {
    task.name: task
    for task in (
        Task("glue/cola", _SENTENCE, ("unacceptable", "acceptable"), 64, ("matthews_correlation",)),
        Task("glue/sst2", _SENTENCE, _SENTIMENT, 64),
        Task("glue/mrpc", _SENTENCES, ("not_equivalent", "equivalent"), 128, ("f1", "accuracy"), test_splits=_TEST),
        Task("glue/qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), 128, ("f1", "accuracy")),
        Task("glue/stsb", _SENTENCES, None, 64, ("pearson", "spearman"), test_splits=_TEST),
        Task(
            "glue/mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            128,
            validation_splits={"matched": "validation_matched", "mismatched": "validation_mismatched"},
        ),
        Task("glue/qnli", ("question", "sentence"), _ENTAILMENT, 128),
        Task("glue/rte", _SENTENCES, _ENTAILMENT, 256),
        Task("glue/wnli", _SENTENCES, ("not_entailment", "entailment"), 128),
        # IMDB has no validation split: a tenth of its training texts, which TFDS has shuffled.
        Task(
            "imdb_reviews",
            ("text",),
            ("neg", "pos"),
            512,
            train_split="train[:90%]",
            validation_splits={"validation": "train[90%:]"},
            test_splits=_TEST,
        ),
        # Of 560,000 texts one in a hundred is enough to choose on.
        Task(
            "yelp_polarity_reviews",
            ("text",),
            _SENTIMENT,
            512,
            train_split="train[:99%]",
            validation_splits={"validation": "train[99%:]"},
            test_splits=_TEST,
        ),
        # Of scikit-learn, which holds out a part of the training texts by what is in them.
        Task("20newsgroups", ("text",), _NEWSGROUPS, 512, test_splits=_TEST),
        Task("movie_reviews", ("text",), _SENTIMENT, 64),
        Task("squad/v1.1", _QUESTION, None, 384, _OF_ANSWERS, "answers", head="question_answering"),
        Task("squad/v2.0", _QUESTION, None, 384, _OF_ANSWERS, "answers", head="question_answering"),
    )
}
FILES_MAX_LENGTH = 128
# Tasks of the user's own labelled files, and their heads.
FILE_TASKS = {"files": "sequence_classification", "tags": "token_classification", "questions": "question_answering"}
TEXTS = "texts"  # the task of learning a teacher's answers to texts without labels
# Metrics by head, of a student against its teacher: see `evaluation/agreement.py`.
_LABELS_AGREEMENT = ("micro_f1", "agreement", "divergence")  # of multi-label teachers
_AGREEMENT = {
    "sequence_classification": ("agreement", "divergence"),
    "sentence_embedding": ("cosine", "neighbours"),
    "token_classification": ("agreement", "divergence"),
    "question_answering": ("agreement", "divergence"),
}


def get_task(data: DataConfig) -> Task:
    """The task that `data` names; `data.max_length`, where given, replaces the literature's.

    The labels of task 'files' are inferred from its training file, or from its validation file where that is the only one.

    Raises:
      DataError: an unknown task, task 'files' without a file, or a file that cannot be read.
    """
    if data.task in FILE_TASKS:
        task = dataclasses.replace(_inferred_task(data), test_splits=_TEST if data.test_file else {})
    elif data.task == TEXTS:
        raise DataError("data.task='texts' is learned from a teacher alone: set distill.teacher")
    elif data.task in _TASKS:
        task = _TASKS[data.task]
    else:
        known = [*_TASKS, *FILE_TASKS, TEXTS]
        # Compared without the family, so that 'sst-2' finds 'glue/sst2'.
        short = {name.removeprefix("glue/"): name for name in known}
        close = [short[name] for name in difflib.get_close_matches(data.task.removeprefix("glue/"), short, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"tasks: {', '.join(known)}"
        raise DataError(f"unknown task data.task={data.task!r}; {hint}")
    return task if data.max_length is None else dataclasses.replace(task, max_length=data.max_length)


def label_metrics(label_names: tuple[str, ...] | None, multi_label: bool) -> tuple[str, ...]:
    """The metrics of texts' labels, the primary one first. label_names: None for regression."""
    if label_names is None:
        return ("pearson", "spearman")
    return ("micro_f1" if multi_label else "accuracy", "macro_f1")


def file_task(
    head: str,
    label_names: tuple[str, ...] | None,
    text_columns: tuple[str, ...],
    label_column: str | None,
    max_length: int | None,
    multi_label: bool = False,
) -> Task:
    """The task of labelled files for a head and its labels. Empty columns, None: the defaults of the head."""
    name, columns, column, length, metrics = {
        "token_classification": ("tags", ("tokens",), "tags", FILES_MAX_LENGTH, tag_metrics_of(label_names or ())),
        "question_answering": ("questions", _QUESTION, "answers", 384, _OF_ANSWERS),
    }.get(head, ("files", ("text",), "label", FILES_MAX_LENGTH, label_metrics(label_names, multi_label)))
    names = None if head == "question_answering" else label_names
    return Task(
        name, text_columns or columns, names, max_length or length, metrics, label_column or column, head=FILE_TASKS[name],
        multi_label=multi_label,
    )  # fmt: skip


def texts_task(
    data: DataConfig,
    head: str,
    label_names: tuple[str, ...] | None,
    max_length: int,
    prompt: str,
    multi_label: bool = False,
    label_column: str | None = None,
) -> Task:
    """The task of learning the answers of a teacher with this head and these labels to texts without labels.

    max_length: used where `data.max_length` is None. prompt: the teacher's, before every text. label_column: of labelled files for
    evaluation; None: the default of the head.
    """
    metrics = _LABELS_AGREEMENT if multi_label else _AGREEMENT[head]
    if head == "sequence_classification" and label_names is None:
        metrics = ("pearson", "spearman")
    return Task(
        TEXTS, data.text_columns, label_names, data.max_length or max_length, metrics,
        label_column or file_task(head, label_names, (), None, None).label_column, test_splits=_TEST,
        head=head, multi_label=multi_label, judge="teacher", prompt=prompt,
    )  # fmt: skip


def _inferred_task(data: DataConfig) -> Task:
    """The task of the user's own labelled files, with the labels that the training file holds."""
    path, head = data.train_file or data.validation_file, FILE_TASKS[data.task]
    if path is None:
        raise DataError(f"data.task={data.task!r} needs data.train_file or data.validation_file: a .jsonl file, or of 'files' a .csv file")
    columns, names, multi_label = data.text_columns, None, False
    if head == "token_classification":
        columns = columns[:1]
        names = infer_tags(path, columns[0], data.label_column)
    elif head == "sequence_classification":
        multi_label = holds_lists(path, data.label_column)
        names = (infer_label_sets if multi_label else infer_labels)(path, data.label_column)
    return file_task(head, names, columns, data.label_column, None, multi_label)


def are_entities(tag_names: tuple[str, ...]) -> bool:
    """Whether tags are of entities: B- at the first word, I- within."""
    return any(name.startswith(("B-", "I-")) for name in tag_names)


def tag_metrics_of(tag_names: tuple[str, ...]) -> tuple[str, ...]:
    """The metrics of these tags, the primary one first."""
    return ("f1", "precision", "recall", "accuracy") if are_entities(tag_names) else ("accuracy",)
