"""`export`: a model as what runs without this package, an ONNX graph or programs of jax.export."""

import argparse

from transkimmer_jax.cli.threshold import add_threshold
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.runtime_names import PLATFORMS


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "export",
        help="a model folder as an ONNX graph, or as jax.export artifacts",
        description="--format onnx writes onnx/model.onnx, onnx/model_quantized.onnx (int8), config.json and the tokenizer, as clients of"
        " transformers' exports expect them. --format jax writes a folder of jax.export artifacts, weights and a manifest;"
        " examples/run_exported.py shows its use.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a new folder, or an older export to replace; onnx: also the model folder itself"
    )
    parser.add_argument("--format", choices=("jax", "onnx"), default="jax", help="what to write (default: jax)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "int8"), help="onnx: the graphs to write (default: float32)")
    parser.add_argument("--platforms", nargs="+", choices=PLATFORMS, help="jax: where each program can run (default: what is at hand)")
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        metavar="N",
        help="jax: only programs that answer texts of these numbers of tokens, each of the narrowest width that holds one (default: all)",
    )
    add_threshold(parser)
    parser.add_argument("--batch-tokens", type=int, help="jax: tokens of a batch (default: by the platforms)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="jax: of weights and matrix products (default: the model's)")
    parser.set_defaults(command=_export)


# Flags that only one format has, and that must not pass unread with another.
_OF_FORMAT = {"platforms": "jax", "lengths": "jax", "batch_tokens": "jax", "dtype": "jax", "precision": "onnx"}


def _export(args: argparse.Namespace) -> None:
    for name, form in _OF_FORMAT.items():
        if getattr(args, name) is not None and args.format != form:
            raise ConfigError(f"--{name.replace('_', '-')} is for --format {form}, not {args.format}")
    if args.format == "onnx":
        _export_graph(args)
    else:
        _export_programs(args)


def _export_graph(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    from transkimmer_jax.onnx.export import export

    for file in export(args.model, args.output, precisions=args.precision or ("float32",), threshold=args.threshold):
        print(f"{file}")


def _export_programs(args: argparse.Namespace) -> None:
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
