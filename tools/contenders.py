"""What takes part in a benchmark: a way to compute a model, what computes it, and in which precision. Light to import."""

import fnmatch
import importlib.util
from collections.abc import Callable, Sequence
from typing import NamedTuple

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.runtime_names import COMPUTES_IN, PRECISIONS

WAYS = {
    "padded": "no skimming, every text padded to the task's length in the literature",
    "dense": "no skimming, sorted by length, padded to the batch's longest: transformers' BERT, as each library optimises it",
    "packed": "no skimming, no padding: this engine without predictors",
    "masked": "skimming by masks, every token computed",
    "compacted": "skimming, only kept tokens computed: this engine",
}
_COMPUTES_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "padded": {"onnxruntime": ("float32",), "jax": COMPUTES_IN["jax"]},
    "dense": {"torch": ("float32",), **COMPUTES_IN, "openvino": PRECISIONS},
    "packed": COMPUTES_IN,
    "masked": {"jax": COMPUTES_IN["jax"]},
    "compacted": COMPUTES_IN,
}
_SKIMMING = ("masked", "compacted")
# Packages behind a runtime. Dense graphs come from PyTorch's exporter.
_PACKAGES: dict[str, tuple[str, ...]] = {"torch": (), "onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "jax": ()}


class Contender(NamedTuple):
    """One way, runtime and precision, as WAY:RUNTIME:PRECISION."""

    way: str
    runtime: str
    precision: str

    def __str__(self) -> str:
        return ":".join(self)

    @property
    def skims(self) -> bool:
        """Whether it computes the skimming model; else the dense one."""
        return self.way in _SKIMMING

    @property
    def own(self) -> bool:
        """Whether `SkimEngine` computes it."""
        return self.way in ("packed", "compacted")

    def without_skimming(self) -> "Contender":
        """The same runtime and precision on the packed dense model."""
        return self._replace(way="packed")


ALL = tuple(
    Contender(way, runtime, precision)
    for way, runtimes in _COMPUTES_IN.items()
    for runtime, precisions in runtimes.items()
    for precision in precisions
)


def missing(contender: Contender, capable: Callable[[Contender], bool]) -> str | None:
    """Why a contender cannot run here; None where it can.

    capable: whether the processor has instructions for its precision, asked where its libraries are installed.
    """
    packages = list(_PACKAGES[contender.runtime])
    if contender.way in ("padded", "dense") and contender.runtime != "jax":
        packages += ["torch", "transformers"]
    if (contender.runtime, contender.precision) == ("openvino", "int8"):
        packages += ["nncf"]
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    return None if capable(contender) else f"this processor has no instructions for {contender.precision}"


def chosen(patterns: Sequence[str] | None, on_cpu: bool, capable: Callable[[Contender], bool]) -> tuple[list[Contender], dict[str, str]]:
    """Those that patterns name and that can run here, and why the others cannot.

    Args:
      patterns: names, or parts with '*'. None: on a CPU all that have not JAX; on an accelerator those that have.
      on_cpu: whether the devices at hand are CPUs, which all but JAX compute on.
      capable: see `missing`.

    Raises:
      ConfigError: a pattern that no contender has, or none that can run here.
    """
    patterns = patterns or ([f"*:{runtime}:*" for runtime in _PACKAGES if runtime != "jax"] if on_cpu else ["*:jax:*"])
    for pattern in patterns:
        if not fnmatch.filter(map(str, ALL), pattern):
            raise ConfigError(f"no contender {pattern!r}; there are {', '.join(map(str, ALL))}, and patterns of them such as 'compacted:*'")
    runnable, reasons = [], {}
    for contender in ALL:
        if not any(fnmatch.fnmatchcase(str(contender), pattern) for pattern in patterns):
            continue
        reason = missing(contender, capable) if on_cpu or contender.runtime == "jax" else "the devices at hand are no CPUs"
        if reason is None:
            runnable.append(contender)
        else:
            reasons[str(contender)] = reason
    if not runnable:
        raise ConfigError("no contender can run here: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    return runnable, reasons
