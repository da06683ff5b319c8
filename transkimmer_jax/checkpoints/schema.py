"""What fields of a parsed JSON object may hold: types and ranges as a table, and everything that is wrong as words.

Null is the same as a field that is left out, as in transformers' configs.
"""

import abc
import dataclasses
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from transkimmer_jax.errors import ConfigError

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxdict, _SHOWN.maxlist, _SHOWN.maxstring, _SHOWN.maxlong, _SHOWN.maxother = 2, 2, 3, 40, 24, 40
FLOAT32_MAX = 3.4e38
LISTED = 20  # problems that one message names


def shown(value: Any) -> str:
    """A hostile value on one short line."""
    return _SHOWN.repr(value)


def listed(problems: Iterable[str]) -> str:
    """Problems as one line, of which the first `LISTED` are named and the others counted."""
    problems = list(problems)
    more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return "; ".join(problems[:LISTED] + more)


class Kind(abc.ABC):
    """What values a field takes; as a string in words: 'a whole number from 1 to 8'."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether this is one of them."""

    def problem(self, name: str, value: Any) -> str:
        """What to say of a value that is not accepted."""
        return f"{name} must be {self}, not {shown(value)}"


@dataclasses.dataclass(frozen=True)
class Integer(Kind):
    """A whole number from `low` to `high`; neither 1.0 nor true is one."""

    low: int
    high: int

    def accepts(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Number(Kind):
    """A number from `low` to `high`, or below `high` where the range is not `closed`. NaN lies in no range."""

    low: float
    high: float
    closed: bool = True

    def accepts(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return self.low <= value <= self.high and (self.closed or value != self.high)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {'' if self.closed else 'below '}{self.high:g}"


@dataclasses.dataclass(frozen=True)
class Text(Kind):
    """A string with something in it that can be written as UTF-8: JSON may hold halves of surrogate pairs."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value) and value.encode("utf-8", "replace").decode("utf-8") == value

    def __str__(self) -> str:
        return "a text"


@dataclasses.dataclass(frozen=True)
class Texts(Kind):
    """Different texts in a list, `most` at most."""

    most: int

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list) or not 1 <= len(value) <= self.most:
            return False
        return all(map(Text().accepts, value)) and len(set(value)) == len(value)

    def __str__(self) -> str:
        return f"a list of 1 to {self.most} different texts"


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """One of a few values that mean something."""

    values: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.values)

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))


@dataclasses.dataclass(frozen=True)
class Supported(Choice):
    """One of the values that this program computes, of many that are meant elsewhere."""

    def problem(self, name: str, value: Any) -> str:
        return f"{name}={shown(value)} is not supported, only {self}"


BOOLEAN = Choice((True, False))
SIZE = Integer(1, 2**20)


@dataclasses.dataclass(frozen=True)
class Section(Kind):
    """An object of further fields.

    closed: others may not be there, since a misspelt one would be ignored in silence.
    """

    fields: Mapping[str, "Field"]
    closed: bool = False

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "an object of fields"


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field holds, and what is meant where it is left out; a `required` one may not be."""

    kind: Kind
    default: Any = None
    required: bool = False


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that is finite as a float32 too, in which thresholds are compared with margins."""
    return type(value) in (int, float) and -FLOAT32_MAX <= value <= FLOAT32_MAX


def unboxed(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's own number; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def storable_threshold(threshold: Any) -> float | None:
    """A threshold for a model's files, which hold finite numbers alone; None stands for the model's own. Raises `ConfigError` for any
    other value."""
    threshold = unboxed(threshold)
    if threshold is not None and not is_finite_number(threshold):
        raise ConfigError(f"threshold must be a finite number, not {shown(threshold)}")
    return threshold


def problems(values: Mapping[str, Any], section: Section, prefix: str = "") -> list[str]:
    """Everything that is wrong with an object's fields, in the table's order."""
    missing = [prefix + name for name, field in section.fields.items() if field.required and values.get(name) is None]
    wrong = [f"config.json lacks {', '.join(missing)}"] if missing else []
    for name, field in section.fields.items():
        # What is meant where a field is left out need not be supported.
        value = field.default if values.get(name) is None else values[name]
        if value is None:
            continue
        if not field.kind.accepts(value):
            wrong.append(field.kind.problem(prefix + name, value))
        elif isinstance(field.kind, Section):
            wrong += problems(value, field.kind, f"{prefix}{name}.")
    unknown = sorted(set(values) - set(section.fields)) if section.closed else []
    if unknown:
        wrong.append(f"unknown fields in the {prefix[:-1]} section of config.json: {listed(shown(name)[1:-1] for name in unknown)}")
    return wrong


def filled(values: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """The table's fields, with defaults for those that are left out, of an object without problems."""
    present = {name: values[name] for name in section.fields if values.get(name) is not None}
    whole = {name: field.default for name, field in section.fields.items()} | present
    for name, field in section.fields.items():
        if isinstance(field.kind, Section) and name in present:
            whole[name] = filled(present[name], field.kind)
    return whole
