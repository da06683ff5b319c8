"""A model as a folder of `jax.export` artifacts, which run without this package.

For every bucket there is a serialised program for each of its rungs but the lowest, and one for rungs that are alike. Where the model
folder has no calibration, or one of a higher threshold alone, there is one for every bucket, with room for all. The weights lie beside them
once, and a manifest says which program takes what. examples/run_exported.py shows how they are used.
"""

import json
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors.numpy import save_file

from transkimmer_jax.checkpoints import config_file, folders, sentence_transformers, tokenizer_files
from transkimmer_jax.checkpoints.locations import resolve
from transkimmer_jax.checkpoints.thresholds import storable_threshold
from transkimmer_jax.data import pipeline
from transkimmer_jax.errors import CheckpointError, ConfigError
from transkimmer_jax.inference.calibration import Calibration
from transkimmer_jax.inference.engine import SkimEngine
from transkimmer_jax.inference.hardware import THRESHOLD_ROUNDING, Hardware, hardware
from transkimmer_jax.inference.jax_runtime import JaxRuntime
from transkimmer_jax.inference.shapes import Bucket, Schedule, buckets, ladder
from transkimmer_jax.models.skim import path_keys
from transkimmer_jax.progress import tqdm

logger = logging.getLogger("transkimmer_jax")

FORMAT = "transkimmer_jax.export"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"


def export(
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    platforms: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    threshold: float | None = None,
    batch_tokens: int | None = None,
    dtype: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a model folder's programs, weights and tokenizer to the folder `output`, whole or not at all.

    A program is (weights by name, input_ids [1, T], token_type_ids [1, T], lengths [1, B], threshold) -> dict of the head's outputs
    ([1, B, ...] of texts, [1, T, ...] of tokens; a classifier's logits [1, B, labels]), kept [1, layers, B] and overflow [1]; integers are
    int32, the threshold a float32 scalar.

    Args:
      model: a model folder or hub id.
      output: a new folder, an empty one, or an older export, which is replaced.
      platforms: any of `runtime_names.PLATFORMS`; each program runs on all of them. None: the one at hand.
      lengths: export the buckets that texts of so many tokens use. None: all.
      threshold: that programs have room for, and the manifest's default; they take any. None: the model's. A calibration of a lower one
        gives larger programs than need be.
      batch_tokens: rows T of a program. None: what suits the platforms.
      dtype: 'float32' or 'bfloat16'. None: the model's.

    Returns:
      The manifest.

    Raises:
      CheckpointError: no model there, or one that cannot be compacted; `output` holds something else than an export.
      ConfigError: a length that no bucket takes, a threshold of a dense model, or one that is no finite number.
      TrainingError: the disk is full.
    """
    threshold = storable_threshold(threshold)
    _require_replaceable(epath.Path(output))
    platforms = tuple(dict.fromkeys(platforms or (jax.export.default_export_platform(),)))
    folder = resolve(os.fspath(model))
    saved = config_file.read(folder)
    settings = sentence_transformers.read_settings(folder, saved.architecture.head, saved.values)
    engine = SkimEngine.from_pretrained(folder, runtime="jax", precision=dtype, threshold=threshold, devices=jax.local_devices()[:1])
    assert isinstance(engine.runtime, JaxRuntime)
    programs, tokenizer = engine.runtime.programs, pipeline.load_tokenizer(folder, engine.arch.vocab_size)
    # Sizes for the devices that the programs are meant for; a CPU beside them is for trying out.
    sizes = hardware(next((platform for platform in platforms if platform != "cpu"), "cpu"))
    sized = buckets(sizes, engine.max_length, batch_tokens, None, engine.arch.scores_per_pair)
    used = _used([large for large, _ in sized], lengths)
    _warn_of_another_threshold(folder, engine)
    calibration = engine.runtime.ladders(engine.threshold).calibration
    schedules = [rung for bucket in used for rung in enumerate(_rungs(bucket, engine, calibration, sizes))]
    params = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(programs.params)}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "jax_version": jax.__version__,
        "platforms": list(platforms),
        "dtype": engine.runtime.arch.compute_dtype,
        "label_names": None if engine.label_names is None else list(engine.label_names),
        "multi_label": engine.arch.multi_label,  # whether a text has any number of these labels
        "pairs": saved.task.pairs,  # None: the folder does not say
        "prompt": engine.default_prompt,  # before each text, or the first of a pair
        "vector_size": engine.vector_size if engine.arch.head == "sentence_embedding" else None,  # so many of a vector's columns are used
        "raw_scores": settings.raw_scores,  # of a cross-encoder: whether its scores are the logits, or their sigmoids; None: neither
        "max_length": engine.max_length,
        "threshold": engine.threshold,
        "weights": WEIGHTS_FILE,
        "artifacts": [_entry(rung, schedule) for rung, schedule in schedules],
    }
    with folders.write_folder(output) as temporary:
        save_file({name: np.asarray(leaf) for name, leaf in params.items()}, temporary / WEIGHTS_FILE)
        (temporary / WEIGHTS_FILE).chmod(0o644)  # safetensors' 0600 would keep colleagues from reading it
        tokenizer_files.save(tokenizer, temporary)
        entries = tqdm(manifest["artifacts"], desc="exporting", unit="program", leave=False, disable=not progress)
        for (_, schedule), entry in zip(schedules, entries, strict=True):
            program = _by_name(programs.function(schedule, portable=True), programs.params)
            exported = jax.export.export(jax.jit(program), platforms=platforms)(*_shapes(params, schedule.bucket))
            (temporary / entry["file"]).write_bytes(exported.serialize())
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return manifest


def _require_replaceable(output: epath.Path) -> None:
    if not output.is_dir() or not any(output.iterdir()):
        return
    try:
        replaceable = json.loads((output / MANIFEST_FILE).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        replaceable = False
    if not replaceable:
        raise CheckpointError(
            f"{output} holds files and is no export to replace ({MANIFEST_FILE} is missing or foreign): choose a new folder"
        )
    folders.require_replaceable(output)


def _used(among: list[Bucket], lengths: Sequence[int] | None) -> list[Bucket]:
    """Those of the buckets, narrowest first, that texts of these lengths are answered in."""
    if lengths is None:
        return among
    widest = among[-1].width
    wrong = next((length for length in lengths if not 1 <= length <= widest), None)
    if wrong is not None:
        raise ConfigError(f"no text has {wrong} tokens: the model reads 1 to {widest}; correct --lengths")
    return [bucket for bucket in among if any(bucket.narrower < length <= bucket.width for length in lengths)]


def _warn_of_another_threshold(folder: pathlib.Path, engine: SkimEngine) -> None:
    saved = Calibration.load(folder, engine.arch.num_hidden_layers)
    if saved is not None and abs(saved.threshold - engine.threshold) > THRESHOLD_ROUNDING:
        room = "what that keeps" if saved.threshold < engine.threshold else "all tokens"
        logger.warning(
            "%s is calibrated for threshold %.4g: programs for %.4g have room for %s; SkimEngine.calibrate(texts, threshold=%.4g).save(%r)"
            " makes smaller ones",
            folder, saved.threshold, engine.threshold, room, engine.threshold, str(folder),
        )  # fmt: skip


def _rungs(bucket: Bucket, engine: SkimEngine, calibration: Calibration | None, sizes: Hardware) -> list[Schedule]:
    """Without the lowest: whoever runs an export runs the whole batch again where one text finds no room."""
    return list(dict.fromkeys(ladder(bucket, engine.arch, calibration, sizes.row_multiple)[1:]))


def _entry(rung: int, schedule: Schedule) -> dict[str, Any]:
    bucket = schedule.bucket
    return {
        "file": f"width{bucket.width}_rung{rung}.jax_export",
        "sequences": bucket.sequences,
        "tokens": bucket.tokens,
        "width": bucket.width,
        "rung": rung,
        "layers": [list(capacities) for capacities in schedule.layers],
    }


def _by_name(program: Callable, params: Any) -> Callable:
    """`program` with its parameters as a flat dict, which a caller can build without the model's classes."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [_name(path) for path, _ in leaves]

    def by_name(weights, input_ids, token_type_ids, lengths, threshold):
        state = jax.tree_util.tree_unflatten(structure, [weights[name] for name in names])
        answers = program(state, input_ids, token_type_ids, lengths, threshold)
        lost = answers.pop("lost")
        return answers | {"overflow": jnp.any(lost, axis=-1)}

    return by_name


def _name(path: tuple[Any, ...]) -> str:
    """A parameter's path in the model, e.g. 'encoder/layers/0/up/kernel'."""
    return "/".join(map(str, path_keys(path)))


def _shapes(params: dict[str, jax.Array], bucket: Bucket) -> tuple[Any, ...]:
    rows, slots = (jax.ShapeDtypeStruct((1, count), jnp.int32) for count in (bucket.tokens, bucket.sequences))
    weights = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in params.items()}
    return weights, rows, rows, slots, jax.ShapeDtypeStruct((), jnp.float32)
