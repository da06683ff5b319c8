"""Errors that a user can cause. Each message is one line that names the culprit and, where there is one, the cure."""

from collections.abc import Sequence


class TranskimmerError(Exception):
    """Base of the errors that commands print as one line, without a traceback."""

    def __str__(self) -> str:
        # Names of files and columns may hold line breaks.
        return " ".join(super().__str__().splitlines())


class ConfigError(TranskimmerError):
    """A configuration that cannot be meant."""


class CheckpointError(TranskimmerError):
    """Weights, tokenizer or configuration of a checkpoint that cannot be used."""


class DataError(TranskimmerError):
    """Data that cannot be trained or evaluated on."""


class ExampleError(DataError):
    """One example of many that cannot be read. number: which of them. reason: the message without the number, for who knows a better."""

    def __init__(self, what: str, number: int, reason: str):
        super().__init__(f"{what} {number}: {reason}")
        self.number, self.reason = number, reason


class TrainingError(TranskimmerError):
    """A run that cannot start or go on: a foreign workdir, gradients that are not finite, a full disk."""


class PeerError(TranskimmerError):
    """Another process of the same run that is gone, or that does not answer."""


class Preempted(TranskimmerError):
    """The run was asked to stop and has saved; the same command goes on."""


class InferenceError(TranskimmerError):
    """Texts that cannot be answered, or answers that are not numbers."""


def first_names(names: Sequence[str]) -> str:
    """The first ten of `names`, for a message."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def first_line(error: BaseException) -> str:
    """What a library says of an error, or else the name of its class: one line of at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
