"""Contenders of a benchmark, as WAY:RUNTIME:PRECISION: a way to compute a model, a runtime, and a precision."""

import fnmatch
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.runtime_names import COMPUTES_IN, PRECISIONS

WAYS = {
    "dense": "no skimming, sorted by length, padded to the batch's longest: transformers' model, as each library optimises it",
    "packed": "no skimming, no padding: this engine without predictors",
    "compacted": "skimming, only kept tokens computed: this engine",
}
_COMPUTES_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "dense": {"torch": ("float32",), "onnxruntime": COMPUTES_IN["onnxruntime"], "openvino": PRECISIONS},
    "packed": COMPUTES_IN,
    "compacted": COMPUTES_IN,
}


class Contender(NamedTuple):
    way: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return ":".join(self)

    @property
    def skims(self) -> bool:
        """Whether it computes the skimming model; else the dense one."""
        return self.way == "compacted"

    @property
    def own(self) -> bool:
        """Whether `SkimEngine` computes it."""
        return self.way != "dense"


ALL = tuple(
    Contender(way, runtime, precision)
    for way, runtimes in _COMPUTES_IN.items()
    for runtime, precisions in runtimes.items()
    for precision in precisions
)


def obstacle(contender: Contender, on_cpu: bool) -> str | None:
    """The reason why a contender cannot run here; None where it can.

    on_cpu: whether the devices at hand are CPUs, which all runtimes but JAX compute on.
    """
    if contender.runtime != "jax" and not on_cpu:
        return "the devices at hand are no CPUs"
    packages = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"]}.get(contender.runtime, [])
    packages += [] if contender.own else ["torch"]  # dense graphs come from PyTorch's exporter
    packages += ["nncf"] if (contender.runtime, contender.precision) == ("openvino", "int8") else []
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if (contender.runtime, contender.precision) == ("openvino", "bfloat16"):
        from transkimmer_jax.onnx.sessions import openvino_has_bfloat16

        if not openvino_has_bfloat16():  # it would compute in another precision
            return "this processor has no instructions for bfloat16"
    return None


def chosen(patterns: Sequence[str] | None, on_cpu: bool) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that patterns name and that can run here, and by name the obstacles of the others.

    patterns: names, or parts with '*'. None: on a CPU all without JAX, on an accelerator those with JAX.

    Raises:
      ConfigError: a pattern that matches no contender, or none that can run here.
    """
    patterns = patterns or (["*:torch:*", "*:onnxruntime:*", "*:openvino:*"] if on_cpu else ["*:jax:*"])
    for pattern in patterns:
        if not fnmatch.filter(map(str, ALL), pattern):
            raise ConfigError(f"no contender {pattern!r}; there are {', '.join(map(str, ALL))}, and patterns of them such as 'compacted:*'")
    named = [contender for contender in ALL if any(fnmatch.fnmatchcase(str(contender), pattern) for pattern in patterns)]
    obstacles = {contender: obstacle(contender, on_cpu) for contender in named}
    absent = {str(contender): reason for contender, reason in obstacles.items() if reason}
    runnable = [contender for contender in named if obstacles[contender] is None]
    if not runnable:
        raise ConfigError("no contender can run here: " + "; ".join(f"{name}: {reason}" for name, reason in absent.items()))
    return runnable, absent
