"""`train`: a run of a config, or both runs of a recipe."""

import argparse
import json
import pathlib
import shlex

import click

from transkimmer_jax.cli.options import COUNT, ConfigCommand, overrides
from transkimmer_jax.config import Recipe, describe, load_config


@click.command("train", cls=ConfigCommand, describe=describe, short_help="Train a model as a config says.")
@click.option("--config", required=True, help="A Python file with get_config(), e.g. configs/glue_sst2.py.")
@click.option("--workdir", help="Folder of the run; the same folder resumes (default: runs/<name of the config>).")
@click.option("--coordinator", metavar="HOST:PORT", help="Of process 0 of several (default: JAX_COORDINATOR_ADDRESS).")
@click.option("--num-processes", type=int, help="Of the run (default: JAX_NUM_PROCESSES).")
@click.option("--process-id", type=int, help="Of this process, from 0 (default: JAX_PROCESS_ID).")
@click.option("--peer-timeout", type=COUNT, default=100, show_default=True, help="Seconds until a silent process counts as gone.")
@click.pass_context
def command(context: click.Context, config: str, workdir: str | None, **peers) -> None:
    """Train a model as a config file says; of a recipe a dense model first, then a skimming one from it.

    Options --config.SECTION.FIELD=VALUE override fields. The same --workdir resumes an interrupted run, and a finished one prints its
    result. On TPU pods, under Slurm and under Open MPI, processes find each other by themselves (docs/pods.md).
    """
    loaded = load_config(config, overrides(context))
    workdir = workdir or f"runs/{pathlib.Path(config).stem}"
    from transkimmer_jax.distributed import processes

    with processes.joined(argparse.Namespace(**peers)):
        # After the other processes were joined.
        from transkimmer_jax.compilation import use_compilation_cache
        from transkimmer_jax.memory import keep_freed_memory
        from transkimmer_jax.training.loop import train_and_evaluate
        from transkimmer_jax.training.recipe import comparison, train_recipe

        keep_freed_memory()
        use_compilation_cache()
        line = shlex.join(["transkimmer", *context.obj])
        if isinstance(loaded, Recipe):
            said = comparison(train_recipe(loaded, workdir, line), workdir)
        else:
            said = json.dumps(train_and_evaluate(loaded, workdir, line), indent=2) + f"\nmodel: {workdir}/model"
        if processes.is_first():
            print(said)
