"""A whole recipe in one workdir: `dense/` and `skimming/` hold its two runs, and beside them lie what came of both.

`model/` is the skimming model and `result.json` its result, with the dense model's under 'dense'. The same workdir goes on where it
stopped: a run that is finished is not made again.
"""

import json
import logging
import os
import pathlib
import shlex
import tempfile
from typing import Any

from etils import epath

from transkimmer_jax.checkpoints import config_file, files, huggingface
from transkimmer_jax.config import Config, Recipe
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.data.tasks import Task
from transkimmer_jax.distributed import processes
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.models.architecture import Architecture
from transkimmer_jax.training import budget, inputs, results
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_task, load_tokenizer, require_positions, student_shapes
from transkimmer_jax.training.workdir import finished_result, to_write, write_result

logger = logging.getLogger("transkimmer_jax")


def train_recipe(recipe: Recipe, workdir: str | os.PathLike, command: str | None = None) -> dict[str, Any]:
    """Train the dense model, then the skimming one from it; the content of `result.json`.

    Args and errors are those of `train_and_evaluate`.
    """
    folder = epath.Path(workdir)
    with files.explained(folder), processes.explained():
        finished = finished_result(folder, recipe)
        has_dense = (folder / "dense" / "result.json").exists()
    if finished is not None:
        return finished
    huggingface.require_replaceable(folder / "model")
    dense_folder, skimming_folder = folder / "dense", folder / "skimming"
    if not has_dense:
        _require_skimming(recipe, skimming_folder)
    logger.info("run 1 of 2: the dense model, in %s", dense_folder)
    dense = train_and_evaluate(recipe.dense, dense_folder, command)
    logger.info("run 2 of 2: the skimming model, in %s", skimming_folder)
    skimming = train_and_evaluate(recipe.student_config(os.fspath(dense_folder / "model")), skimming_folder, command)
    result = skimming | {"seconds": round(dense["seconds"] + skimming["seconds"], 1), "dense": dense, "skimming": skimming}
    with files.explained(folder), processes.explained():
        if processes.is_first():
            with files.replaced_folder(folder / "model") as copy:
                files.copy_folder(skimming_folder / "model", epath.Path(copy))
            files.write_json(folder / "config.json", to_write(recipe))
            write_result(folder, result)
        processes.wait_for_all("recipe written")
    return result


def _require_skimming(recipe: Recipe, workdir: epath.Path) -> None:
    """Raises, or says, before the dense run what the skimming one, in `workdir`, would behind it: of texts that it alone reads, a batch
    that the devices cannot share, a model that cannot be saved, a budget that its texts do not allow."""
    config, task = recipe.student_config(recipe.dense.model.pretrained), load_task(recipe.dense)
    inputs.require_shareable(config, Placement.create(config.mesh))
    inputs.load_unlabelled(config, task)
    arch = _shapes_after(recipe, config, task)
    require_positions(task, arch, config.model.pretrained)
    tokenizer = load_tokenizer(config, task, arch)
    results.require_savable(workdir, config, task, arch, tokenizer)
    texts = next(iter(inputs.load_validation(config, task).values()))
    tokens = prepare(task, texts, tokenizer, config.data.doc_stride).tokens
    served = budget.LengthDistribution.like(float(tokens.lengths.mean()), inputs.always_kept(config.skim, tokens.first_segments))
    budget.require_spendable(config.skim, arch, served.mean)
    budget.warn_of_unreachable(config.skim, arch, served)


def _shapes_after(recipe: Recipe, config: Config, task: Task) -> Architecture:
    """The architecture of the skimming run of this config, which starts from all of the dense model, or from what the dense run keeps."""
    if recipe.dense.model.part is None:
        return student_shapes(config, task)
    with tempfile.TemporaryDirectory() as folder:
        dense = config_file.to_values(student_shapes(recipe.dense, task), task.label_names, None)
        pathlib.Path(folder, config_file.CONFIG_FILE).write_text(json.dumps(dense), encoding="utf-8")
        return student_shapes(recipe.student_config(folder), task)


def comparison(result: dict[str, Any], workdir: str | os.PathLike) -> str:
    """Both models of a recipe side by side, for a terminal, and what to do next."""
    runs = [result["dense"], result["skimming"]]
    rows: list[tuple[str, ...]] = [("", "dense", "skimming", "against dense")]
    metric = result["metric"]
    for split in result["metrics"]:
        dense, skimming = (run["metrics"][split][metric] for run in runs)
        rows.append((f"{metric}, {split}", f"{dense:.4f}", f"{skimming:.4f}", f"{skimming - dense:+.4f}"))
        for point in result["skimming"].get("curve", []):
            if point["split"] == split:
                value, times = point["value"], point["flops_vs_unpadded"]
                rows.append((f"  at {times:.2f}x fewer FLOPs", "", f"{value:.4f}", f"{value - dense:+.4f}"))
    for name, heading in (("flops_vs_padded", "fewer FLOPs than padded dense"), ("flops_vs_unpadded", "fewer FLOPs than unpadded dense")):
        rows.append((heading, *(f"{run[name]:.2f}x" for run in runs), ""))
    rows.append(("tokens kept", *(f"{run['kept_tokens']:.1%}" for run in runs), ""))
    layers = max(len(run["kept_per_layer"]) for run in runs)
    for layer in range(layers):
        shares = (f"{run['kept_per_layer'][layer]:.1%}" if layer < len(run["kept_per_layer"]) else "" for run in runs)
        rows.append((f"  by layer {layer}", *shares, ""))
    rows.append(("seconds", *(f"{run['seconds']:.0f}" for run in runs), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(f"{cell:<{widths[0]}}" if column == 0 else f"{cell:>{widths[column]}}" for column, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    model = os.path.join(os.fspath(workdir), "model")
    return "\n".join([*lines, "", f"model: {model}", f"next:  transkimmer predict --model {shlex.quote(model)} --input FILE"])
