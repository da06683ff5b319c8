"""`train`: a run of a config, from its data to `model/` and `result.json`."""

import argparse
import json
import pathlib
import shlex

from transkimmer_jax.config import describe, load_config, parse_overrides
from transkimmer_jax.parallel import processes


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "train",
        help="train a model as a config says",
        description="Train a model as a config file says. Fields are overridden by flags: --config.SECTION.FIELD=VALUE. The same "
        "--workdir resumes an interrupted run, and a finished one answers with its result.",
        epilog="Fields, with their defaults; each config file sets some of them:\n\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a Python file with get_config(), e.g. configs/glue_sst2.py")
    parser.add_argument("--workdir", help="where everything is kept; the same folder resumes (default: runs/<name of the config>)")
    processes.add_flags(parser)
    parser.set_defaults(command=_train, takes_overrides=True)


def _train(args: argparse.Namespace) -> None:
    config = load_config(args.config, parse_overrides(args.rest))
    workdir = args.workdir or f"runs/{pathlib.Path(args.config).stem}"
    with processes.together(args):
        # Imported here, so that --help answers at once, and after the other processes were joined.
        from transkimmer_jax.compilation import use_compilation_cache
        from transkimmer_jax.training.loop import train_and_evaluate

        use_compilation_cache()
        result = train_and_evaluate(config, workdir, command=shlex.join(["transkimmer", *args.arguments]))
        if processes.is_first():
            print(json.dumps(result, indent=2))
            print(f"model: {workdir}/model")
