"""What requests hold and answers look like: the fields of text-embeddings-inference, of OpenAI's embeddings, and of the Inference API that
`huggingface_hub` speaks. Fields that are none of these are not looked at."""

import dataclasses
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import PlainValidator, WithJsonSchema

from transkimmer_jax.serving import errors


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Texts, and whether there was one that stood alone, which some routes answer without a list around it."""

    texts: list[Any]
    single: bool


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) is int for number in value)


def _sequences(value: Any) -> Inputs:
    """A text, a pair, or a list of such, each in a list of its own."""
    if isinstance(value, str):
        return Inputs([value], True)
    if isinstance(value, list) and all(isinstance(part, str) for part in value) and len(value) in (1, 2):
        return Inputs([tuple(value) if len(value) == 2 else value[0]], True)
    if isinstance(value, list) and all(
        isinstance(entry, list) and len(entry) in (1, 2) and all(isinstance(part, str) for part in entry) for entry in value
    ):
        return Inputs([tuple(entry) if len(entry) == 2 else entry[0] for entry in value], False)
    raise ValueError("must be a text, a pair [text, text], or a list of [text] and [text, text]")


def _either(wanted: str, *kinds: Callable[[Any], bool]) -> PlainValidator:
    """Takes a value of one of these kinds, or a list of such, all of one kind."""

    def check(value: Any) -> Inputs:
        for is_one in kinds:
            if is_one(value):
                return Inputs([value], True)
            if isinstance(value, list) and all(map(is_one, value)):
                return Inputs(value, False)
        raise ValueError(f"must be {wanted}")

    return PlainValidator(check)


_STRING: dict[str, Any] = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
_NUMBERS = {"type": "array", "items": {"type": "integer"}}


def _any_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(schemas)})


_Sequences = Annotated[
    Inputs, PlainValidator(_sequences), _any_of(_STRING, {**_STRINGS, "maxItems": 2}, {"type": "array", "items": _STRINGS})
]
_Texts = Annotated[
    Inputs,
    _either("a text, a list of texts, or token ids", _is_text, _is_ids),
    _any_of(_STRING, _STRINGS, _NUMBERS, {"type": "array", "items": _NUMBERS}),
]
_PlainTexts = Annotated[Inputs, _either("a text or a list of texts", _is_text), _any_of(_STRING, _STRINGS)]
_Ids = Annotated[
    Inputs, _either("a list of token ids, or a list of such lists", _is_ids), _any_of(_NUMBERS, {"type": "array", "items": _NUMBERS})
]
_Direction = Annotated[Literal["left", "right"], pydantic.BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)]


def _only(*known: Any) -> PlainValidator:
    """Takes null, or what the server does anyway, of a field that it does not follow: an answer to another question would pass unseen."""
    choice = "".join(f" or give {json.dumps(value)}" for value in known)

    def check(value: Any) -> Any:
        if value is not None and (type(value), value) not in [(type(one), one) for one in known]:
            raise ValueError(f"this server does not follow it: leave it out{choice}")
        return value

    return PlainValidator(check)


_NotFollowed = Annotated[None, _only(), WithJsonSchema({"type": "null"})]
_One = Annotated[int | None, _only(1), WithJsonSchema({"enum": [1, None]})]
_No = Annotated[bool | None, _only(False), WithJsonSchema({"enum": [False, None]})]
_Ungrouped = Annotated[str | None, _only("none"), WithJsonSchema({"enum": ["none", None]})]


class _Fields(pydantic.BaseModel):
    """A part of a body: types are as they are said, and further fields are not looked at."""

    model_config = pydantic.ConfigDict(strict=True, extra="ignore")


class ModelRequest(_Fields):
    """Fields of all routes that compute: ours are `model`, which of several answers, and `threshold`, how much is skimmed."""

    model: str | None = None
    threshold: float | None = None


class _Truncating(ModelRequest):
    truncate: bool | None = None
    truncation_direction: _Direction | None = None


class PredictParameters(_Fields):
    """Of the Inference API. candidate_labels: a field that this server does not follow, of its task for labels that a model has not
    learned, which clients send to the same place."""

    top_k: int | None = pydantic.Field(default=None, ge=1)
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    candidate_labels: _NotFollowed = None


class PredictRequest(_Truncating):
    """Where `parameters` are given the answer has the Inference API's shape: a list for every text, also for one."""

    inputs: _Sequences
    raw_scores: bool = False
    parameters: PredictParameters | None = None


class RerankRequest(_Truncating):
    """label: ours; of a classifier, the label whose probability is the score."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    label: str | None = None


class EmbedAllRequest(_Truncating):
    """Token ids are read as the text that they are of."""

    inputs: _Texts
    prompt_name: str | None = None


class EmbedRequest(EmbedAllRequest):
    """dimensions: the first so many columns only."""

    normalize: bool = True
    dimensions: int | None = pydantic.Field(default=None, ge=1)


class SimilarityInputs(_Fields):
    """One text, and those that it is compared with."""

    source_sentence: str = pydantic.Field(min_length=1)
    sentences: list[str]


class SimilarityParameters(_Fields):
    """How the texts are read."""

    truncate: bool | None = None
    truncation_direction: _Direction | None = None
    prompt_name: str | None = None


class SimilarityRequest(ModelRequest):
    """Cosines with one text."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class OpenAIRequest(ModelRequest):
    """OpenAI's."""

    input: _Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = pydantic.Field(default=None, ge=1)


class TagParameters(_Fields):
    """Of the Inference API. ignore_labels: of words that are left out. Others are fields that this server does not follow:
    each takes only what it does anyway."""

    ignore_labels: list[str] = ["O"]
    aggregation_strategy: _Ungrouped = None
    stride: _NotFollowed = None


class TagRequest(ModelRequest):
    """Words of texts."""

    inputs: _PlainTexts
    truncate: bool | None = None
    parameters: TagParameters | None = None


class Question(_Fields):
    """A question, and where the answer is looked for."""

    question: str
    context: str


class AnswerParameters(_Fields):
    """Of the Inference API. max_answer_len: tokens. handle_impossible_answer: whether there may be none. Others: see `TagParameters`."""

    max_answer_len: int = pydantic.Field(default=30, ge=1, le=1000)
    handle_impossible_answer: bool = False
    top_k: _One = None
    align_to_words: _No = None
    doc_stride: _NotFollowed = None
    max_question_len: _NotFollowed = None
    max_seq_len: _NotFollowed = None


class AnswerRequest(ModelRequest):
    """A question to a context, which is read whole."""

    inputs: Question
    parameters: AnswerParameters | None = None


class TokenizeRequest(ModelRequest):
    """What the tokenizer makes of texts."""

    inputs: _PlainTexts
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(ModelRequest):
    """Token ids as texts."""

    ids: _Ids
    skip_special_tokens: bool = True


class Prediction(pydantic.BaseModel):
    """Of one label."""

    score: float
    label: str


class Rank(pydantic.BaseModel):
    """Of one text. text: where it was asked for."""

    index: int
    text: str | None = None
    score: float


class Embedding(pydantic.BaseModel):
    """embedding: base64 of float32, little-endian, where that was asked for."""

    object: Literal["embedding"]
    embedding: list[float] | str
    index: int


class Usage(pydantic.BaseModel):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(pydantic.BaseModel):
    """OpenAI's."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Word(pydantic.BaseModel):
    """start, end: its characters."""

    entity: str
    score: float
    word: str
    start: int
    end: int


class Span(pydantic.BaseModel):
    """score: its probability. answer: '' where there is none; the score is then that of none."""

    answer: str
    score: float
    start: int
    end: int


class Token(pydantic.BaseModel):
    """start, stop: its characters; null of a special token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


Body = TypeVar("Body", bound=ModelRequest)


def parse(schema: type[Body], body: bytes) -> Body:
    """A body as what a route takes. Raises `RequestError`: 400 where it is no JSON, 422 where it is another."""
    try:
        return schema.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _described(error) from None


def parse_object(body: bytes) -> dict[str, Any]:
    """A body whose schema depends on what it holds. Raises `RequestError`: 400 where it is no JSON, 422 where it is no object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise errors.malformed("the body is no JSON") from None
    if not isinstance(value, dict):
        raise errors.invalid("the body must be a JSON object")
    return value


def _described(error: pydantic.ValidationError) -> errors.RequestError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return errors.malformed(f"the body is no JSON: {message.removeprefix('Invalid JSON: ')}")
    where = ".".join(str(part) for part in first["loc"])
    return errors.invalid(f"{where}: {message}" if where else message)
