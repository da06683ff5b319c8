"""What `predict` reads of a record and says of it, by the model's head."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from transkimmer_jax.data import records
from transkimmer_jax.errors import ConfigError

if TYPE_CHECKING:
    from transkimmer_jax.data.tasks import Task
    from transkimmer_jax.inference.engine import SkimEngine

_DECIMALS = 8  # of vectors' numbers; those of float32 say no more of numbers near 1
_SETTING = "--text-columns"


class Answering(abc.ABC):
    """How a head's texts are read and answered.

    fields: of an answer. columns: where a file's texts are if nobody says so. counts: how many columns there may be. wanted: that in words.
    """

    fields: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]] = ("text",)
    counts: ClassVar[tuple[int, ...]] = (1, 2)
    wanted: ClassVar[str] = "one column or two"

    def __init__(self, prompt_name: str | None = None):
        """prompt_name: of an embedder's prompts, that which stands before texts; None: its default."""
        if prompt_name is not None:
            raise ConfigError("--prompt-name is of embedders, and this model is none")

    def checked_columns(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The columns of texts. Raises `ConfigError` for a number of them that the head does not read."""
        if len(columns) not in self.counts:
            raise ConfigError(f"{_SETTING} names {self.wanted}, not {len(columns)}")
        return columns

    def columns_of(self, given: Sequence[str] | None, of_model: tuple[str, ...] | None, model: str) -> tuple[str, ...]:
        """Where texts are: as given, or as the model was trained, or as usual.

        Raises `ConfigError` for a number of columns that the head does not read, or that this model was not trained on.
        """
        columns = self.checked_columns(tuple(given or of_model or self.columns))
        if of_model is not None and len(columns) != len(of_model):
            wanted = "pairs: name two columns" if len(of_model) == 2 else "single texts: name one column"
            raise ConfigError(f"{_SETTING} {' '.join(columns)}, but {model} reads {wanted}")
        return columns

    def require_task(self, task: "Task", of_model: tuple[str, ...] | None, model: str) -> None:
        """Raises `ConfigError` where a task has pairs and the model reads single texts, or the other way round."""
        count = len(task.text_columns)
        if count not in self.counts or (of_model is not None and len(of_model) in self.counts and count != len(of_model)):
            has, reads = ("pairs", "single texts") if count == 2 else ("single texts", "pairs")
            raise ConfigError(f"--task {task.name} has {has}, but {model} reads {reads}: name another task, or give a file")

    def read(self, record: dict[str, Any], columns: tuple[str, ...], where: str) -> Any:
        """The input of a record. Raises `DataError`; `where` names the record."""
        texts = [records.column_text(record, column, where) for column in columns]
        return texts[0] if len(texts) == 1 else (texts[0], texts[1])

    @abc.abstractmethod
    def answer(self, engine: "SkimEngine", inputs: Sequence[Any], progress: bool) -> list[dict[str, Any]]:
        """An answer for each input, its `fields` by name."""


class Labels(Answering):
    """Of classifiers, regressors and cross-encoders; a multi-label classifier's label is a list, a regressor's answers have no
    probabilities."""

    fields = ("label", "probabilities", "tokens", "kept", "truncated")

    def answer(self, engine: "SkimEngine", inputs: Sequence[Any], progress: bool) -> list[dict[str, Any]]:
        answers = engine.predict(inputs, progress=progress)
        named = [{name: getattr(answer, name) for name in self.fields} for answer in answers]
        return [{name: value for name, value in answer.items() if value is not None} for answer in named]


class Embeddings(Answering):
    """Of embedders: a vector a text."""

    fields = ("embedding", "tokens", "kept", "truncated")
    counts = (1,)
    wanted = "one column, since an embedder reads one text at a time"

    def __init__(self, prompt_name: str | None = None):
        self._prompt_name = prompt_name

    def answer(self, engine: "SkimEngine", inputs: Sequence[Any], progress: bool) -> list[dict[str, Any]]:
        before = engine.prompt_text(self._prompt_name)
        predictions, truncated = engine.predict_texts([before + text for text in inputs], progress=progress)
        vectors = engine.vectors(predictions).astype(float).round(_DECIMALS)
        rows = (vectors, predictions.lengths, predictions.shares_kept(), truncated)
        return [dict(zip(self.fields, row, strict=True)) for row in zip(*(values.tolist() for values in rows), strict=True)]


class Tags(Answering):
    """Of taggers: a text's words with their tags. A column holds texts, or lists of words."""

    fields = ("tags", "tokens", "kept", "truncated")
    counts = (1,)
    wanted = "one column, since a tagger reads one text at a time"

    def read(self, record: dict[str, Any], columns: tuple[str, ...], where: str) -> Any:
        if isinstance(record.get(columns[0]), list):
            return records.column_value(record, columns[0], where, records.WORDS)
        return super().read(record, columns, where)

    def answer(self, engine: "SkimEngine", inputs: Sequence[Any], progress: bool) -> list[dict[str, Any]]:
        return [dataclasses.asdict(answer) for answer in engine.tag(inputs, progress=progress)]


class Spans(Answering):
    """Of readers: the span of a context that answers a question."""

    fields = ("answer", "start", "end", "score", "no_answer_score", "tokens", "kept")
    columns = ("question", "context")
    counts = (2,)
    wanted = "two columns, since a reader reads questions and contexts"

    def answer(self, engine: "SkimEngine", inputs: Sequence[Any], progress: bool) -> list[dict[str, Any]]:
        questions, contexts = zip(*inputs, strict=True)
        answers = engine.answer(questions, contexts, progress=progress)
        assert isinstance(answers, list)
        return [{name: getattr(answer, "text" if name == "answer" else name) for name in self.fields} for answer in answers]


OF_HEADS: dict[str, type[Answering]] = {
    "sequence_classification": Labels,
    "sentence_embedding": Embeddings,
    "token_classification": Tags,
    "question_answering": Spans,
}
