"""Time of a training step: skimming against dense in JAX, bfloat16 against float32, and dense in JAX against PyTorch, in one process.

    python -m tools.train_step [--hidden-size 384 --layers 6 --batch-size 32 --length 64] [--json FILE]

Random weights and random tokens, AdamW, dropout on, freed memory kept as `train.py` keeps it. The contenders take turns; the
medians of their times are compared. PyTorch takes part where it is installed.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import numpy as np
from flax import nnx

from transkimmer_jax.config import Config, SkimConfig
from transkimmer_jax.memory import keep_freed_memory
from transkimmer_jax.models.architecture import Architecture, SkimArchitecture
from transkimmer_jax.models.heads import TranskimmerForSequenceClassification
from transkimmer_jax.training.step import TrainStep


def jax_step(arch: Architecture, batch: dict[str, np.ndarray]):
    """A function that runs one JAX training step and waits for it."""
    config = Config(skim=SkimConfig(enabled=arch.skim is not None, coefficient=0.5))
    model = TranskimmerForSequenceClassification(arch, rngs=nnx.Rngs(0))
    train_step = TrainStep.create(config, model, total_steps=1000)
    state = train_step.start(nnx.split(model)[1])
    compiled = jax.jit(train_step.update, donate_argnums=0).lower(state, batch, None).compile()

    def run():
        nonlocal state
        state, metrics = compiled(state, batch, None)
        jax.block_until_ready((state, metrics))

    return run


def torch_step(arch: Architecture, batch: dict[str, np.ndarray]):
    """The same step of transformers' PyTorch BERT, or None where torch is not installed."""
    try:
        import torch
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError:
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = BertConfig(
        hidden_size=arch.hidden_size,
        num_hidden_layers=arch.num_hidden_layers,
        num_attention_heads=arch.num_attention_heads,
        intermediate_size=arch.intermediate_size,
    )
    model = BertForSequenceClassification(config).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=1e-5)
    inputs = {name: torch.tensor(batch[name]).long() for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}

    def run():
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def _has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    cpu = pathlib.Path("/proc/cpuinfo")
    return cpu.exists() and "amx_bf16" in cpu.read_text()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="write the result to this file")
    args = parser.parse_args()
    keep_freed_memory()

    arch = Architecture(
        hidden_size=args.hidden_size, num_hidden_layers=args.layers, intermediate_size=4 * args.hidden_size, skim=SkimArchitecture()
    )
    rng = np.random.default_rng(0)
    shape = (args.batch_size, args.length)
    lengths = rng.integers(args.length // 2, args.length + 1, args.batch_size)
    batch = {
        "input_ids": rng.integers(0, arch.vocab_size, shape).astype(np.int32),
        "attention_mask": (np.arange(args.length)[None] < lengths[:, None]).astype(np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
        "labels": rng.integers(0, 2, args.batch_size).astype(np.int32),
        "weight": np.ones(args.batch_size, np.float32),
    }
    contenders = {
        "masked": jax_step(arch, batch),
        "masked_bfloat16": jax_step(dataclasses.replace(arch, compute_dtype="bfloat16"), batch),
        "dense": jax_step(dataclasses.replace(arch, skim=None), batch),
        "dense_bfloat16": jax_step(dataclasses.replace(arch, skim=None, compute_dtype="bfloat16"), batch),
        "torch": torch_step(arch, batch),
    }
    contenders = {name: run for name, run in contenders.items() if run is not None}
    seconds = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        "hidden_size": args.hidden_size, "layers": args.layers, "batch_size": args.batch_size, "length": args.length,
        "device": jax.devices()[0].device_kind, "machine": platform.machine(), "amx": _has_amx(), "cores": len(os.sched_getaffinity(0)),
        "seconds": medians, "repeats": args.repeats, "masked_vs_dense": medians["masked"] / medians["dense"],
        "masked_bfloat16_vs_masked": medians["masked_bfloat16"] / medians["masked"],
        "dense_bfloat16_vs_dense": medians["dense_bfloat16"] / medians["dense"],
        "dense_vs_torch": medians["dense"] / medians["torch"] if "torch" in medians else None,
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
