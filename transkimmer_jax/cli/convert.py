"""`convert`: a checkpoint into a folder of ours, or a dense one into one of transformers."""

import argparse

from transkimmer_jax.cli.threshold import require_skimming


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "convert",
        help="a checkpoint into a folder that transformers and this package read",
        description="Read a checkpoint of transformers, sentence-transformers or the original Transkimmer, write it with safetensors, "
        "digests and a model card, read it back, compare every bit, and say what became of each tensor. A dense model is one that "
        "transformers reads.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder, or a checkpoint of ours to replace")
    parser.add_argument("--dense", action="store_true", help="leave skim predictors out")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="make a bare encoder an embedder that pools so")
    parser.add_argument(
        "--attention-masking",
        choices=("renormalized", "post_softmax"),
        help="of a skimming model; 'post_softmax' for a checkpoint of the original, whose attention runs over skimmed tokens too",
    )
    parser.add_argument("--tensors", action="store_true", help="name each tensor and the parameter that it is")
    parser.set_defaults(command=_convert)


def _convert(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    from transkimmer_jax.checkpoints import conversion
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.inference.calibration import Calibration
    from transkimmer_jax.models import heads

    folder = resolve(args.model)
    # Complete: a head made fresh here would be taken for a trained one when it is read again.
    dense = True if args.dense else None
    model = heads.load(folder, dense=dense, pooling=args.pooling, attention_masking=args.attention_masking, complete=True)
    require_skimming(args.model, model.arch, attention_masking=args.attention_masking)
    tokenizer = pipeline.load_tokenizer(folder, model.arch.vocab_size)
    calibration = Calibration.load(folder, model.arch.num_hidden_layers) if model.arch.skim else None
    report = conversion.convert(model, folder, args.output, tokenizer)
    if calibration is not None:
        calibration.save(args.output)
    for name, paths in sorted(report.read.items()) if args.tensors else ():
        print(f"{name} -> {', '.join(paths)}")
    for what, names in (("left out", report.left_out), ("made fresh", report.fresh)):
        if names:
            print(f"{what}: {', '.join(names)}")
    kind = "dense" if model.arch.skim is None else "skimming"
    print(
        f"{args.output}: {kind} {model.arch.backbone} for {model.arch.head.replace('_', ' ')}, {len(report.read)} tensors read, "
        f"{len(report.left_out)} left out, {len(report.fresh)} parameters fresh; read back bit for bit"
    )
