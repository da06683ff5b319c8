"""What a client is told instead of an answer: the shapes of text-embeddings-inference, and on OpenAI's routes theirs."""

import functools
from typing import Any

# error_type, and the label of te_request_failure.
_LABELS = {
    "Empty": "empty", "Validation": "validation", "Tokenizer": "tokenization", "Backend": "inference", "Overloaded": "overloaded",
    "Unhealthy": "unhealthy", "Unauthorized": "unauthorized",
}  # fmt: skip


def has_openai_shape(path: str) -> bool:
    """Whether errors of a route have OpenAI's shape."""
    return path.endswith("/embeddings")


class RequestError(Exception):
    """A request that is not answered.

    status: of HTTP. kind: the `error_type`. message: one line for the client. label: of the counter of failures.
    """

    def __init__(self, status: int, kind: str, message: str, label: str | None = None):
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, " ".join(message.split())
        self.label = label or _LABELS[kind]

    def content(self, openai: bool) -> dict[str, Any]:
        """The body. openai: as OpenAI's routes have it."""
        if openai:
            return {"message": self.message, "code": self.status, "type": self.kind}
        return {"error": self.message, "error_type": self.kind}


invalid = functools.partial(RequestError, 422, "Validation")  # a body or header that cannot be meant
malformed = functools.partial(RequestError, 400, "Validation", label="malformed")  # a body that is no JSON
empty = functools.partial(RequestError, 400, "Empty")  # a request without a text
too_many = functools.partial(RequestError, 413, "Validation", label="batch_size")  # more texts than a request may have
too_large = functools.partial(RequestError, 413, "Validation", label="payload")  # a body of more bytes than a request may have
unknown_model = functools.partial(RequestError, 404, "Validation", label="unknown_model")  # a model that is not served
other_model = functools.partial(RequestError, 424, "Backend", label="model_type")  # a model that does not answer such requests
unreadable = functools.partial(RequestError, 422, "Tokenizer")  # a text that the tokenizer does not read
failed = functools.partial(RequestError, 424, "Backend")  # texts that the engine could not compute
# More requests than are waited for.
overloaded = functools.partial(RequestError, 429, "Overloaded", "the model is overloaded: try again in a moment")
unhealthy = functools.partial(RequestError, 503, "Unhealthy")  # a server that computes no longer
# A request that the server had no time left for.
stopped = functools.partial(RequestError, 503, "Unhealthy", "the server stops: ask again in a moment", "stopped")
# A request without the key.
unauthorized = functools.partial(
    RequestError, 401, "Unauthorized", "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"
)
# A defect of the server: what it was is in its log.
internal = functools.partial(RequestError, 500, "Backend", "the server could not answer: its log says why", "internal")
