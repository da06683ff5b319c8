"""What a compiled program asks of a chip, and how fast the chip can be at best (the roofline).

Read from the optimised HLO text, whose costs are those of one device: the compiler's own count of bytes takes what stays in
on-chip memory for traffic of the main memory, and says nothing of collectives. Both are therefore counted here, instruction by
instruction:

- Memory: an instruction reads its operands and writes its result, each where it lies; those in on-chip memory (memory space 1)
  cost nothing. A part that is read of a larger array inside a fusion counts as all of it, so the sum is rather too large.
- Collectives: what one chip sends in a ring, the algorithm whose traffic is least: (n - 1)/n of the result of an all-gather, of the
  operand of a reduce-scatter or all-to-all, twice that of an all-reduce, all of a permute.

What a loop's body does counts as often as the compiler says that it runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip's limits, from the vendor's documentation.

    flops: bf16 matrix operations a second. memory: bytes. bandwidth: bytes a second of main memory. link: bytes a second that one
    link between neighbours sends one way. axes: of the torus that chips form. wraps: chips of an axis from which on its ends are
    connected.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    axes: int
    wraps: int

    def interconnect(self, shape: Sequence[int]) -> float:
        """Bytes a second that each chip of a `shape` slice can send to the others at least: a link for each way along each axis, but
        one alone where the axis has ends."""
        ways = sum(0 if size == 1 else 2 if size >= self.wraps else 1 for size in shape)
        return self.link * ways


# Google Cloud's pages on TPU versions: peak bf16 compute, HBM capacity and bandwidth, and the bandwidth between chips, which they
# give for all links of a chip together (1,600, 4,800 and 3,584 Gbit/s).
CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 1600e9 / 8 / 4, 2, 16),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 4800e9 / 8 / 6, 3, 4),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1640e9, 3584e9 / 8 / 4, 2, 16),
}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one run of a program moves on one device: bytes of main memory, and by kind of collective how many and what a chip sends."""

    memory_bytes: float
    collectives: dict[str, tuple[int, float]]

    @property
    def sent_bytes(self) -> float:
        """Bytes that a chip sends in all collectives."""
        return sum(sent for _, sent in self.collectives.values())


@dataclasses.dataclass(frozen=True)
class Bound:
    """Seconds that a program's operations, memory traffic and collectives take at least."""

    compute: float
    memory: float
    collectives: float

    @property
    def seconds(self) -> float:
        """Of the whole program, where everything runs beside everything else."""
        return max(self.compute, self.memory, self.collectives)

    @property
    def collective_share(self) -> float:
        """Of the time, where nothing runs beside the collectives: what they cost at most, if they take their least time."""
        return self.collectives / (max(self.compute, self.memory) + self.collectives)


def bound(chip: Chip, shape: Sequence[int], flops: float, traffic: Traffic) -> Bound:
    """The least time of a program on each chip of a slice.

    flops: operations on one device.
    """
    sent = traffic.sent_bytes
    return Bound(flops / chip.flops, traffic.memory_bytes / chip.bandwidth, sent / chip.interconnect(shape) if sent else 0.0)


def traffic(hlo: str) -> Traffic:
    """Read the text of a compiled program.

    Raises:
      ValueError: text without an entry computation.
    """
    computations, entry = _parse(hlo)
    if entry is None:
        raise ValueError("not an HLO module: it has no entry computation")
    memory, collectives = 0.0, collections.defaultdict[str, list[float]](lambda: [0, 0.0])
    for times, name, fused in _executed(computations, entry):
        table = {instruction.name: instruction for instruction in computations[name]}
        for instruction in computations[name]:
            memory += 0.0 if fused else times * _memory_bytes(instruction, table)
            kind = instruction.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                collectives[kind][0] += times
                collectives[kind][1] += times * _sent_bytes(kind, instruction, table)
    return Traffic(memory, {kind: (int(count), sent) for kind, (count, sent) in sorted(collectives.items())})


_COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")
# These name or regroup what lies in memory, or are over when the instruction that they belong to is.
_FREE = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "while", "conditional", "call", "partition-id",
    "replica-id", "opt-barrier", "async-start", "async-update", "async-done",
}  # fmt: skip
_CALLERS = ("while", "conditional", "call", "fusion", "async-start")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_GROUPS = re.compile(r"replica_groups=(mesh\[.*?\] \{.*?\}|\{\{[\d,]*\}|\[\d+,\d+\]|\{\})")


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    line: str


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str | None]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = None, None
    for line in hlo.splitlines():
        header = _HEADER.match(line)
        if header:
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            name, rest = match.groups()
            kind, opcode, arguments = _split(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
            computations[current].append(_Instruction(name, kind, opcode, operands, line))
    return computations, entry


def _split(rest: str) -> tuple[str, str, str]:
    """An instruction's type, opcode and operands."""
    # A tuple's type has brackets of its own, and so have layouts; the opcode is the first word before a bracket outside of them.
    start = _closing(rest, 0) if rest.startswith("(") else 0
    depth = 0
    for at in range(start, len(rest)):
        depth += (rest[at] in "{[") - (rest[at] in "}]")
        if depth == 0 and rest[at] == " ":
            match = _OPCODE.match(rest, at)
            if match:
                end = _closing(rest, match.end() - 1)
                return rest[:at], match[1], rest[match.end() : end]
    return rest, "", ""


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] in "({[") - (text[at] in ")}]")
        if depth == 0:
            return at + 1
    return len(text)


def _executed(
    computations: dict[str, list[_Instruction]], name: str, times: int = 1, fused: bool = False
) -> Iterator[tuple[int, str, bool]]:
    """The computations that run, how often, and whether as part of one instruction: a fusion, in which there may be collectives."""
    yield times, name, fused
    for instruction in computations[name]:
        if instruction.opcode in _CALLERS:
            match = _TRIPS.search(instruction.line)
            trips = int(match[1]) if match else 1
            for called in _called(instruction):
                if called in computations:
                    yield from _executed(computations, called, times * trips, fused or instruction.opcode == "fusion")


def _called(instruction: _Instruction) -> list[str]:
    return [name.strip().lstrip("%") for match in _CALLED.finditer(instruction.line) for name in (match[1] or match[2]).split(",")]


def _bytes(kind: str, everywhere: bool = False) -> float:
    """Of a type's arrays, those in main memory or, if `everywhere`, all."""
    total = 0.0
    for dtype, shape, layout in _ARRAY.findall(kind):
        if everywhere or "S(" not in layout:
            bits = re.search(r"\d+", dtype)
            item = 1.0 if dtype == "pred" or bits is None else int(bits[0]) / 8
            total += item * math.prod(int(size) for size in shape.split(",") if size)
    return total


def _memory_bytes(instruction: _Instruction, table: dict[str, _Instruction]) -> float:
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0.0
    if instruction.opcode in ("copy-start", "slice-start"):
        # Types (result, operand, context) and ((operand), result, context): what moves is the result.
        arrays = [(match[0], match[3]) for match in _ARRAY.finditer(instruction.type)]
        array, layout = arrays[0 if instruction.opcode == "copy-start" else 1]
        source = table[instruction.operands[0]].type if instruction.operands and instruction.operands[0] in table else ""
        return _bytes(array, everywhere=True) * (("S(" not in (layout or "")) + ("S(" not in source))
    read = sum(_bytes(table[name].type) for name in instruction.operands if name in table)
    return read + (0.0 if instruction.opcode.endswith("-start") else _bytes(instruction.type))


def _sent_bytes(kind: str, instruction: _Instruction, table: dict[str, _Instruction]) -> float:
    size = _group_size(instruction.line)
    operands = sum(_bytes(table[name].type, everywhere=True) for name in instruction.operands if name in table)
    if kind == "collective-permute":
        return operands
    if kind == "all-gather":
        return operands * (size - 1)
    return operands * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def _group_size(line: str) -> int:
    """How many devices take part in each group of a collective."""
    match = _GROUPS.search(line)
    if not match:
        return 1
    text = match[1]
    if text.startswith("mesh"):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", text))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", text[text.rindex("{") :]))
    if text.startswith("["):
        return int(text[1:-1].split(",")[1])
    return max(1, len([device for device in text.strip("{}").split(",") if device]))
