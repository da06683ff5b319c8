"""`export`: a model as programs that run without this package."""

import argparse

from transkimmer_jax.cli.threshold import add_threshold
from transkimmer_jax.errors import ConfigError


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "export",
        help="a model folder as jax.export artifacts",
        description="Write a folder of jax.export artifacts, weights and a manifest; examples/run_exported.py shows its use.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder, or an older export to replace")
    # Not from inference.export, which is slow to import.
    parser.add_argument(
        "--platforms", nargs="+", choices=("cpu", "cuda", "tpu"), help="where each program can run (default: what is at hand)"
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        metavar="N",
        help="only the programs that answer texts of these numbers of tokens, each of the narrowest width that holds one (default: all)",
    )
    add_threshold(parser, "the default that the manifest names (default: the model's)")
    parser.add_argument("--batch-tokens", type=int, help="tokens of a batch (default: by the platforms)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of weights and matrix products (default: the model's)")
    parser.set_defaults(command=_export)


def _export(args: argparse.Namespace) -> None:
    if args.batch_tokens is not None and args.batch_tokens < 1:
        raise ConfigError(f"--batch-tokens must be at least 1, not {args.batch_tokens}")
    # Imported here, so that --help answers at once.
    from transkimmer_jax.inference.export import export

    manifest = export(
        args.model,
        args.output,
        platforms=args.platforms,
        lengths=args.lengths,
        threshold=args.threshold,
        batch_tokens=args.batch_tokens,
        dtype=args.dtype,
    )
    widths = sorted({artifact["width"] for artifact in manifest["artifacts"]})
    print(
        f"{args.output}: {len(manifest['artifacts'])} programs for {', '.join(manifest['platforms'])}, {manifest['dtype']},"
        f" threshold {manifest['threshold']}; widths: {', '.join(map(str, widths))}"
    )
    for length in sorted(set(args.lengths or ()) - set(widths)):
        print(f"texts of {length} tokens are answered by the programs of width {next(width for width in widths if width >= length)}")
    if widths[-1] < manifest["max_length"]:
        print(f"texts of more than {widths[-1]} tokens are not answered")
