"""Train a Transkimmer: python train.py --config configs/glue_sst2.py [--workdir DIR] [--config.SECTION.FIELD=VALUE ...]"""

import argparse
import json
import pathlib
import shlex
import sys

from transkimmer_jax import console
from transkimmer_jax.config import describe, load_config, parse_overrides
from transkimmer_jax.memory import keep_freed_memory
from transkimmer_jax.parallel import processes


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Fields, with their defaults; each config file sets some of them:\n\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="a file of configs/")
    parser.add_argument("--workdir", help="where everything is kept; the same folder resumes (default: runs/<name of the config>)")
    processes.add_flags(parser)
    known, rest = parser.parse_known_args(arguments)
    config = load_config(known.config, parse_overrides(rest))
    workdir = known.workdir or f"runs/{pathlib.Path(known.config).stem}"

    with processes.together(known):
        from transkimmer_jax.compilation import use_compilation_cache
        from transkimmer_jax.training.loop import train_and_evaluate

        use_compilation_cache()
        result = train_and_evaluate(config, workdir, command=shlex.join(["python", "train.py", *arguments]))
        if processes.is_first():
            print(json.dumps(result, indent=2))
            print(f"model: {workdir}/model")


if __name__ == "__main__":
    keep_freed_memory()
    console.leave(console.run(main, sys.argv[1:]))
