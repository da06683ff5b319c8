"""`convert`: a checkpoint into a folder of ours, or into a dense one of transformers."""

import click

from transkimmer_jax.cli import options
from transkimmer_jax.cli.options import POOLING, Command


@click.command("convert", cls=Command, short_help="A checkpoint into a folder that transformers and this package read.")
@options.model
@click.option("--output", required=True, metavar="DIR", help="A new folder, or a checkpoint of ours to replace.")
@click.option("--dense", is_flag=True, help="Leave skim predictors out.")
@click.option("--pooling", type=POOLING, help="Make a bare encoder an embedder with this pooling.")
@click.option(
    "--attention-masking",
    type=click.Choice(("renormalized", "post_softmax")),
    help="Of a skimming model; 'post_softmax' for checkpoints of the original Transkimmer.",
)
@click.option("--tensors", is_flag=True, help="List each tensor with its parameter.")
def command(model: str, output: str, dense: bool, pooling: str | None, attention_masking: str | None, tensors: bool) -> None:
    """Convert a checkpoint of transformers, sentence-transformers or the original Transkimmer.

    Writes safetensors, digests and a model card, and compares what it reads back bit for bit. transformers reads a dense model.
    """
    # Imported here, so that --help answers at once.
    from transkimmer_jax.checkpoints import conversion
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.inference.requirements import require_skimming
    from transkimmer_jax.models import heads

    folder = resolve(model)
    # Complete: a fresh head would be taken for a trained one when it is read again.
    loaded = heads.load(folder, dense=dense or None, pooling=pooling, attention_masking=attention_masking, complete=True)
    require_skimming(model, loaded.arch, attention_masking=attention_masking)
    tokenizer = pipeline.load_tokenizer(folder, loaded.arch.vocab_size)
    calibration = Calibration.load(folder, loaded.arch.num_hidden_layers) if loaded.arch.skim else None
    report = conversion.convert(loaded, folder, output, tokenizer)
    if calibration is not None:
        calibration.save(output)
    for name, paths in sorted(report.read.items()) if tensors else ():
        print(f"{name} -> {', '.join(paths)}")
    for what, names in (("left out", report.left_out), ("made fresh", report.fresh)):
        if names:
            print(f"{what}: {', '.join(names)}")
    kind = "dense" if loaded.arch.skim is None else "skimming"
    print(
        f"{output}: {kind} {loaded.arch.backbone} for {loaded.arch.head.replace('_', ' ')}, {len(report.read)} tensors read, "
        f"{len(report.left_out)} left out, {len(report.fresh)} parameters fresh; read back bit for bit"
    )
