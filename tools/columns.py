"""Tables with a row a record: programs for TPU slices, injected faults, cold processes."""

from collections.abc import Callable
from typing import Any

Cell = Callable[[dict[str, Any]], str]
_SLICES: dict[str, Cell] = {
    "program": lambda r: r["program"],
    "slice": lambda r: r["topology"],
    "fsdp": lambda r: str(r["fsdp"]),
    "examples": lambda r: f"{r['examples']:,}",
    "GB a chip": lambda r: f"{r['memory_bytes'] / 1e9:.2f}",
    "GFLOP a chip": lambda r: f"{r['flops'] / 1e9:,.0f}",
    "GB moved": lambda r: f"{r['traffic_bytes'] / 1e9:.1f}",
    "collectives": lambda r: ", ".join(f"{used['count']} {kind}" for kind, used in r["collectives"].items()),
    "MB sent": lambda r: f"{r['sent_bytes'] / 1e6:,.1f}" if r["collectives"] else "",
    "ms at least": lambda r: f"{1e3 * r['step_seconds']:.1f}",
    "examples/s at most": lambda r: f"{r['examples_per_second']:,.0f}",
    "utilisation at most": lambda r: f"{r['utilization']:.0%}",
    "share of collectives": lambda r: f"{r['collective_share']:.1%}",
}
_FAULTS: dict[str, Cell] = {
    "fault": lambda r: r["fault"],
    "injected": lambda r: str(r["injected"]),
    "noticed": lambda r: str(r["noticed"]),
    "survived": lambda r: "" if r["survived"] is None else str(r["survived"]),
    "harmless": lambda r: str(r.get("harmless", "")),
    "wrong answers": lambda r: str(r["wrong"]),
    "tracebacks": lambda r: str(r["tracebacks"]),
    "over the limits": lambda r: str(r.get("over_limits", "")),
    "seconds at most": lambda r: "" if r.get("seconds") is None else f"{r['seconds']:.1f}",
    "MB at most": lambda r: "" if r.get("megabytes") is None else f"{r['megabytes']:,.0f}",
}
_PROCESSES: dict[str, Cell] = {
    "runtime": lambda r: r["setting"],
    "model": lambda r: r["model"],
    "texts": lambda r: f"{r['texts']:,}",
    "seconds in all": lambda r: f"{r['seconds']:.1f}",
    "of processors": lambda r: f"{r['cpu_seconds']:.1f}",
    "MB": lambda r: f"{r['megabytes']:,.0f}",
}
VIEWS = {"slices": _SLICES, "faults": _FAULTS, "processes": _PROCESSES}
_TOLD: dict[str, Cell] = {
    "slices": lambda r: (
        f"{r['layers']} layers of H={r['hidden_size']}, texts of {r['length']} tokens, {r['dtype']}, "
        f"compiled by jax {r['jax']} with libtpu {r['libtpu']}"
    ),
    "faults": lambda r: f"Seed {r['seed']}, {r['cores']} cores, commit {r['commit']}",
    "processes": lambda r: f"{r['cores']} cores, commit {r['commit']}",
}


def rows(view: str, records: list[dict[str, Any]]) -> list[list[str]]:
    """The head and a row a record."""
    return [list(VIEWS[view]), *([cell(record) for cell in VIEWS[view].values()] for record in records)]


def told(view: str, records: list[dict[str, Any]]) -> str:
    """The circumstances of all records."""
    return "; ".join(sorted({_TOLD[view](record) for record in records})) + "."
