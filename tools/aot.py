"""`aot`: a config's programs compiled for TPU slices that are not here, and what they would cost there."""

import argparse
import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from tools import records
from transkimmer_jax.checkpoints import files
from transkimmer_jax.config import Recipe, load_config, parse_overrides
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.progress import tqdm

if TYPE_CHECKING:
    from tools.aot_workload import Costs, Workload
    from tools.topology import Topology
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models.architecture import Architecture


def main(arguments: list[str]) -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--topology", nargs="+", required=True, metavar="CHIP:SHAPE", help="e.g. v5e:4x4, v5p:2x2x4, v6e:16x16")
    parser.add_argument("--config", required=True, help="a Python file with get_config(), e.g. configs/glue_qnli.py")
    programs = ("train", "evaluate", "compacted")
    parser.add_argument("--programs", nargs="+", choices=programs, default=programs, help="which (default: all)")
    parser.add_argument(
        "--batch-per-chip", type=int, default=32, metavar="N", help="examples of a step on each chip (default: %(default)s)"
    )
    parser.add_argument("--length", type=int, help="tokens that they are padded to (default: the task's)")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a compacted batch on each chip (default: the engine's on a TPU)")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument(
        "--keep",
        metavar="SHARES",
        help="of the tokens, kept by each layer, e.g. 0.9,0.5,0.2, stretched to all layers (of those with a predictor)",
    )
    keep.add_argument("--calibration", metavar="FOLDER", help="instead, a model folder that says what a trained model keeps")
    parser.add_argument("--json", metavar="FILE", help="also write the records to this file, each as soon as it is there")
    args, args.rest = parser.parse_known_args(arguments)
    _aot(args)


def _aot(args: argparse.Namespace) -> None:
    for name in ("batch_per_chip", "length", "batch_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    config = load_config(args.config, parse_overrides(args.rest))
    if isinstance(config, Recipe):
        # A dense run gives its model the shapes that it started from.
        config = config.student_config(config.dense.model.pretrained)
    if args.batch_per_chip % config.optimizer.accumulation:
        raise ConfigError(
            f"--batch-per-chip={args.batch_per_chip} must be a multiple of optimizer.accumulation={config.optimizer.accumulation}"
        )
    # Imported here, so that --help answers at once.
    from tools import topology
    from tools.aot_workload import Workload
    from transkimmer_jax.checkpoints import huggingface
    from transkimmer_jax.training.models import load_task, student_shapes, teacher_options

    task = load_task(config)
    arch = student_shapes(config, task)
    length = args.length or task.max_length
    if length > arch.max_position_embeddings:
        raise ConfigError(f"--length={length} is more than the {arch.max_position_embeddings} positions of {config.model.pretrained}")
    teacher = None
    if config.distill.teacher is not None:
        teacher = huggingface.shapes(config.distill.teacher, task.head, **teacher_options(config, task))
    workload = Workload(config, arch, teacher, args.batch_per_chip, length, args.batch_tokens, _calibration(args, arch, length))
    slices = [topology.topology(name) for name in args.topology]
    command = records.command()
    found: list[dict[str, Any]] = []
    wanted = [(slice_, program) for slice_ in slices for program in args.programs]
    for slice_, program in tqdm(wanted, desc="compiling", unit="program", leave=False):
        for costs in workload.compile(program, slice_):
            found.append(_record(costs, slice_, workload, task.name) | {"command": command})
            tqdm.write(_text(found[-1]))
        if args.json:
            files.write_json(args.json, found)


def _calibration(args: argparse.Namespace, arch: "Architecture", length: int) -> "Calibration | None":
    """What the flags say of kept tokens."""
    from transkimmer_jax.inference.calibration import CALIBRATION_FILE, Calibration

    threshold = arch.skim.threshold if arch.skim else 0.0
    if args.calibration is not None:
        calibration = Calibration.load(args.calibration, arch.num_hidden_layers)
        if calibration is None:
            raise ConfigError(f"--calibration {args.calibration}: there is no {CALIBRATION_FILE}")
        return calibration
    values = None if args.keep is None else shares(args.keep, arch.num_hidden_layers)
    return None if values is None else Calibration.of_shares(values, length, threshold)


_PARTS = {"compute": "compute", "memory": "memory", "collectives": "collective"}


def _record(costs: "Costs", slice_: "Topology", workload: "Workload", task: str) -> dict[str, Any]:
    chip, bound = slice_.chip, costs.bound
    return {
        "task": task,
        "head": workload.arch.head,
        "backbone": workload.arch.backbone,
        "program": costs.program,
        "topology": slice_.name,
        "chips": len(slice_.devices),
        "fsdp": workload.config.mesh.fsdp,
        "hidden_size": workload.arch.hidden_size,
        "layers": workload.arch.num_hidden_layers,
        "length": workload.length,
        "examples": costs.examples,
        "dtype": workload.arch.compute_dtype,
        "compile_seconds": round(costs.compile_seconds, 1),
        "memory_bytes": costs.memory_bytes,
        "chip_memory_bytes": chip.memory,
        "flops": costs.flops,
        "model_flops": costs.model_flops,
        "traffic_bytes": costs.traffic.memory_bytes,
        "collectives": {kind: {"count": count, "sent_bytes": sent} for kind, (count, sent) in costs.traffic.collectives.items()},
        "sent_bytes": costs.traffic.sent_bytes,
        "compute_seconds": bound.compute,
        "memory_seconds": bound.memory,
        "collective_seconds": bound.collectives,
        "step_seconds": bound.seconds,
        "collective_share": bound.collective_share,
        "examples_per_second": costs.examples / bound.seconds,
        "utilization": costs.utilization(chip),
        **{package: importlib.metadata.version(package) for package in ("jax", "libtpu")},
    }


def _text(record: dict[str, Any]) -> str:
    def milliseconds(name: str) -> str:
        return f"{1e3 * record[name + '_seconds']:.2f} ms"

    kinds = ", ".join(f"{sums['count']} {kind} ({sums['sent_bytes'] / 1e6:.1f} MB)" for kind, sums in record["collectives"].items())
    times = ", ".join(f"{part} {milliseconds(name)}" for part, name in _PARTS.items())
    lines = {
        "memory a chip": f"{record['memory_bytes'] / 1e9:.2f} of {record['chip_memory_bytes'] / 1e9:.0f} GB",
        "work a chip": f"{record['flops'] / 1e9:.1f} GFLOP, {record['traffic_bytes'] / 1e9:.2f} GB of memory traffic",
        "collectives": kinds or "none",
        "time at least": f"{milliseconds('step')} ({times})",
        "so at most": f"{record['examples_per_second']:,.0f} examples/s, {record['utilization']:.0%} model FLOPs utilisation",
        "collectives take": f"{record['collective_share']:.1%} of the time, where nothing runs beside them",
        "compiled in": f"{record['compile_seconds']} s",
    }
    what = f"{record['program']} on {record['topology']} ({record['chips']} chips, fsdp {record['fsdp']})"
    batch = f"{record['examples']} examples of {record['length']} tokens, {record['dtype']}"
    return "\n".join([f"{what}: {batch}", *(f"  {name:17} {value}" for name, value in lines.items())])


def shares(text: str, layers: int) -> list[float] | None:
    """Shares of the tokens that the layers keep, stretched to all layers; None: all. Raises `ConfigError` for anything but falling numbers
    in (0, 1]."""
    if text == "all":
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--keep must be numbers with commas between, or 'all', not {text!r}") from error
    if any(not 0 < value <= 1 for value in values) or sorted(values)[::-1] != values:
        raise ConfigError(f"--keep needs falling numbers in (0, 1], as 0.9,0.5,0.2, not {text}")
    return np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, len(values)), values).tolist()


if __name__ == "__main__":
    records.start(main)
