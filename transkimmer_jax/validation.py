"""Outside data, by pydantic: the base class of all schemas, and a `ValidationError` as one line."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxdict, _SHOWN.maxlist, _SHOWN.maxstring, _SHOWN.maxlong, _SHOWN.maxother = 2, 2, 3, 40, 24, 40


class Schema(BaseModel):
    """Data from outside: immutable, finite numbers, no unknown fields. A subclass that ignores unknown fields sets `extra="ignore"`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def explain(error: ValidationError, known: Iterable[str] = ()) -> str:
    """The first problem that pydantic reports, in one line: 'data.batch_size=0: input should be greater than 0'.

    known: dotted names of all fields, from which an unknown one gets the nearest as a suggestion.
    """
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) if len(str(part)) <= 80 else shown(part) for part in problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown field {name!r}" + suggestion(name, known)
    if problem["type"] == "missing":
        return f"{name} is missing"
    message = problem["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
    if problem["type"] == "value_error" and f"{name}." in message:
        return message  # of several fields, which it names
    message = message[:1].lower() + message[1:] if message.startswith("Input") else message
    return f"{name}={shown(problem['input'])}: {message}" if name else message


def suggestion(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the nearest of `known`, or '' where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value of any size on one short line."""
    return _SHOWN.repr(value)
