"""`export`: a model as an ONNX graph, or as programs of jax.export."""

from typing import Any

import click

from transkimmer_jax.cli import options
from transkimmer_jax.cli.options import COUNT, Command
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.runtime_names import PLATFORMS

_OF_FORMAT = {"platforms": "jax", "lengths": "jax", "batch_tokens": "jax", "dtype": "jax", "precision": "onnx"}


@click.command("export", cls=Command, short_help="A model folder as an ONNX graph, or as jax.export artifacts.")
@options.model
@click.option("--output", required=True, metavar="DIR", help="A new folder or an older export; for onnx also the model folder itself.")
@click.option("--format", "form", type=click.Choice(("jax", "onnx")), default="jax", show_default=True)
@click.option("--precision", type=click.Choice(("float32", "int8")), multiple=True, help="onnx: graphs to write (default: float32).")
@click.option("--platforms", type=click.Choice(PLATFORMS), multiple=True, help="jax: of each program (default: the one at hand).")
@click.option("--lengths", type=COUNT, multiple=True, metavar="N", help="jax: only programs for these numbers of tokens (default: all).")
@options.threshold()
@click.option("--batch-tokens", type=COUNT, help="jax: tokens of a batch (default: by the platforms).")
@click.option("--dtype", type=click.Choice(("float32", "bfloat16")), help="jax: of weights and products (default: the model's).")
def command(model: str, output: str, form: str, precision: tuple[str, ...], threshold: float | None, **of_jax: Any) -> None:
    """Export a model for use without this package.

    --format onnx writes onnx/model.onnx, onnx/model_quantized.onnx (int8), config.json and the tokenizer, as clients of transformers'
    exports expect them. --format jax writes jax.export artifacts, weights and a manifest, for examples/run_exported.py.
    """
    for name, value in (of_jax | {"precision": precision}).items():
        if value and _OF_FORMAT[name] != form:
            raise ConfigError(f"--{name.replace('_', '-')} is for --format {_OF_FORMAT[name]}, not {form}")
    if form == "onnx":
        from transkimmer_jax.onnx.export import export as export_graph

        for file in export_graph(model, output, precisions=precision or ("float32",), threshold=threshold):
            print(file)
        return
    from transkimmer_jax.inference.export import export

    given = {name: value for name, value in of_jax.items() if value}
    manifest = export(model, output, threshold=threshold, **given)
    widths = sorted({artifact["width"] for artifact in manifest["artifacts"]})
    print(
        f"{output}: {len(manifest['artifacts'])} programs for {', '.join(manifest['platforms'])}, {manifest['dtype']},"
        f" threshold {manifest['threshold']}; widths: {', '.join(map(str, widths))}"
    )
    for length in sorted(set(of_jax["lengths"]) - set(widths)):
        print(f"texts of {length} tokens are answered by the programs of width {next(width for width in widths if width >= length)}")
    if widths[-1] < manifest["max_length"]:
        print(f"texts of more than {widths[-1]} tokens are not answered")
