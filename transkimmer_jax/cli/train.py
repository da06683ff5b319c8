"""`train`: a run of a config, or both runs of a recipe, from the data to `model/` and `result.json`."""

import argparse
import json
import pathlib
import shlex

from transkimmer_jax.config import Recipe, describe, load_config, parse_overrides


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "train",
        help="train a model as a config says",
        description="Train a model as a config file says; of a recipe a dense model first, then a skimming one from it. Fields are "
        "overridden by flags: --config.SECTION.FIELD=VALUE. The same --workdir resumes an interrupted run, and a finished one answers "
        "with its result.",
        epilog="Fields, with their defaults; each config file sets some of them:\n\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a Python file with get_config(), e.g. configs/glue_sst2.py")
    parser.add_argument("--workdir", help="where everything is kept; the same folder resumes (default: runs/<name of the config>)")
    group = parser.add_argument_group("many processes (found by themselves on TPU pods, under Slurm and Open MPI; see docs/pods.md)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0 (default: JAX_COORDINATOR_ADDRESS)")
    group.add_argument("--num-processes", type=int, help="of the run (default: JAX_NUM_PROCESSES)")
    group.add_argument("--process-id", type=int, help="of this one, from 0 (default: JAX_PROCESS_ID)")
    group.add_argument(
        "--peer-timeout",
        type=int,
        default=100,
        metavar="SECONDS",
        help="after which a process that does not answer counts as gone (default: %(default)s)",
    )
    parser.set_defaults(command=_train, takes_overrides=True)


def _train(args: argparse.Namespace) -> None:
    config = load_config(args.config, parse_overrides(args.rest))
    workdir = args.workdir or f"runs/{pathlib.Path(args.config).stem}"
    # Imported here, so that --help answers at once.
    from transkimmer_jax.distributed import processes

    with processes.joined(args):
        # After the other processes were joined.
        from transkimmer_jax.compilation import use_compilation_cache
        from transkimmer_jax.memory import keep_freed_memory
        from transkimmer_jax.training.loop import train_and_evaluate
        from transkimmer_jax.training.recipe import comparison, train_recipe

        keep_freed_memory()
        use_compilation_cache()
        command = shlex.join(["transkimmer", *args.arguments])
        if isinstance(config, Recipe):
            said = comparison(train_recipe(config, workdir, command), workdir)
        else:
            said = json.dumps(train_and_evaluate(config, workdir, command), indent=2) + f"\nmodel: {workdir}/model"
        if processes.is_first():
            print(said)
