"""What a client is told instead of an answer: the shapes of text-embeddings-inference, and on OpenAI's routes theirs."""

from typing import Any

# error_type, and the label of te_request_failure.
_LABELS = {
    "Empty": "empty", "Validation": "validation", "Tokenizer": "tokenization", "Backend": "inference", "Overloaded": "overloaded",
    "Unhealthy": "unhealthy", "Unauthorized": "unauthorized",
}  # fmt: skip


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


def invalid(message: str) -> RequestError:
    """A body or header that cannot be meant."""
    return RequestError(422, "Validation", message)


def malformed(message: str) -> RequestError:
    """A body that is no JSON."""
    return RequestError(400, "Validation", message, "malformed")


def empty(message: str) -> RequestError:
    """A request without a text."""
    return RequestError(400, "Empty", message)


def too_many(message: str) -> RequestError:
    """More texts than a request may have."""
    return RequestError(413, "Validation", message, "batch_size")


def too_large(message: str) -> RequestError:
    """A body of more bytes than a request may have."""
    return RequestError(413, "Validation", message, "payload")


def unknown_model(message: str) -> RequestError:
    """A model that is not served."""
    return RequestError(404, "Validation", message, "unknown_model")


def other_model(message: str) -> RequestError:
    """A model that does not answer such requests."""
    return RequestError(424, "Backend", message, "model_type")


def unreadable(message: str) -> RequestError:
    """A text that the tokenizer does not read."""
    return RequestError(422, "Tokenizer", message)


def failed(message: str) -> RequestError:
    """Texts that the engine could not compute."""
    return RequestError(424, "Backend", message)


def overloaded() -> RequestError:
    """More requests than are waited for."""
    return RequestError(429, "Overloaded", "the model is overloaded: try again in a moment")


def unhealthy(message: str) -> RequestError:
    """A server that computes no longer."""
    return RequestError(503, "Unhealthy", message)


def stopped() -> RequestError:
    """A request that the server had no time left for."""
    return RequestError(503, "Unhealthy", "the server stops: ask again in a moment", "stopped")


def unauthorized() -> RequestError:
    """A request without the key."""
    return RequestError(401, "Unauthorized", "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'")


def internal() -> RequestError:
    """A defect of the server: what it was is in its log."""
    return RequestError(500, "Backend", "the server could not answer: its log says why", "internal")
