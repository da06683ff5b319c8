"""A whole recipe in one workdir: the runs in `dense/` and `skimming/`, and the skimming model and both results beside them.

`result.json` is the skimming model's, with the dense model's under 'dense'. The same workdir resumes: a finished run is not made again.
"""

import itertools
import logging
import os
import shlex
from typing import Any

from etils import epath

from transkimmer_jax.checkpoints import files, huggingface
from transkimmer_jax.config import Recipe
from transkimmer_jax.data.prepared import prepare
from transkimmer_jax.distributed import processes
from transkimmer_jax.distributed.placement import Placement
from transkimmer_jax.training import budget, inputs, results
from transkimmer_jax.training.loop import train_and_evaluate
from transkimmer_jax.training.models import load_task, load_tokenizer, require_positions, student_shapes
from transkimmer_jax.training.students import aligned
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
    """Check the skimming run, in `workdir`, before the dense run takes its hours: texts, devices, positions, budgets, saving.

    A dense run that keeps a part of its encoder is left unchecked: the shape of its model is not known yet.

    Raises: as `train_and_evaluate`.
    """
    if recipe.dense.model.part is not None:
        return
    config, task = recipe.student_config(recipe.dense.model.pretrained), load_task(recipe.dense)
    inputs.require_shareable(config, Placement.create(config.mesh))
    inputs.load_unlabelled(config, task)
    arch = student_shapes(config, task)
    require_positions(task, arch, config.model.pretrained)
    tokenizer = load_tokenizer(config, task, arch)
    results.require_savable(workdir, config, task, arch, tokenizer)
    texts = next(iter(inputs.load_validation(config, task).values()))
    tokens = prepare(task, texts, tokenizer, config.data.doc_stride).tokens
    distribution = budget.LengthDistribution.like(float(tokens.lengths.mean()), inputs.always_kept(config.skim, tokens.first_segments))
    budget.require_spendable(config.skim, arch, distribution.mean)
    budget.warn_of_unreachable(config.skim, arch, distribution)


def comparison(result: dict[str, Any], workdir: str | os.PathLike) -> str:
    """A table of both models of a recipe for a terminal, and the next command."""
    runs, metric = [result["dense"], result["skimming"]], result["metric"]
    rows = [["", "dense", "skimming", "against dense"]]
    for split in result["metrics"]:
        dense, skimming = (run["metrics"][split][metric] for run in runs)
        rows.append([f"{metric}, {split}", f"{dense:.4f}", f"{skimming:.4f}", f"{skimming - dense:+.4f}"])
        for point in result["skimming"].get("curve", []):
            if point["split"] == split:
                value, times = point["value"], point["flops_vs_unpadded"]
                rows.append([f"  at {times:.2f}x fewer FLOPs", "", f"{value:.4f}", f"{value - dense:+.4f}"])
    rows.append(["fewer FLOPs than padded dense", *(f"{run['flops_vs_padded']:.2f}x" for run in runs)])
    rows.append(["fewer FLOPs than unpadded dense", *(f"{run['flops_vs_unpadded']:.2f}x" for run in runs)])
    rows.append(["tokens kept", *(f"{run['kept_tokens']:.1%}" for run in runs)])
    kept = itertools.zip_longest(*([f"{share:.1%}" for share in run["kept_per_layer"]] for run in runs), fillvalue="")
    rows += [[f"  by layer {layer}", *shares] for layer, shares in enumerate(kept)]
    rows.append(["seconds", *(f"{run['seconds']:.0f}" for run in runs)])
    model = os.path.join(os.fspath(workdir), "model")
    return f"{aligned(rows)}\n\nmodel: {model}\nnext:  transkimmer predict --model {shlex.quote(model)} --input FILE"
