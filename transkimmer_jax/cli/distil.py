"""`distil`: from an encoder that works, and texts without labels, one that answers alike at a share of the price."""

import argparse
import os
import shlex

from transkimmer_jax.config import DataConfig, describe, override, parse_overrides
from transkimmer_jax.training.distillation import TARGET, distil_config


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "distil",
        help="a skimming student of any encoder, from texts without labels",
        description="Train a skimming student of a dense model that answers as that does, from texts alone; the student starts from it. "
        "The teacher is a classifier, a cross-encoder, an embedder, a tagger or a model for question answering, in a folder or hub id of "
        "transformers, of sentence-transformers or of ours. A tenth of the texts is held out: one half to choose on, the other for the "
        "numbers that are printed. The same --output resumes.",
        epilog="Fields, for --config.SECTION.FIELD=VALUE:\n\n" + describe(distil_config("TEACHER")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="folder or hub id of the model that is there")
    parser.add_argument("--texts", required=True, nargs="+", metavar="FILE", help=".txt (a text a line), .jsonl or .csv files")
    parser.add_argument(
        "--text-columns",
        nargs="+",
        metavar="COLUMN",
        default=DataConfig().text_columns,
        help="of .jsonl and .csv: one, or two for pairs; to an embedder each is a text (default: text)",
    )
    parser.add_argument(
        "--target",
        type=float,
        nargs="+",
        metavar="SHARE",
        default=[TARGET],
        help=f"share of the dense model's FLOPs that the student spends (default: {TARGET}); with several shares one student serves all, "
        "and --threshold 0.6 of other commands makes it spend 0.4",
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument(
        "--layers",
        type=int,
        metavar="COUNT",
        help="how many of the teacher's layers the student has; those are left out without which the teacher answers most as before "
        "(default: of a classifier the first two thirds, of an embedder five of six, both with fewer neurons but for a classifier of texts "
        "of 128 tokens and more, where these cost more than the largest --target; else all. Fields of --config.model that name layers or "
        "neurons replace this)",
    )
    part.add_argument("--whole", action="store_true", help="the student has all layers and neurons of its teacher")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the run; the student is in FOLDER/model")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="of an embedder whose folder does not say how it pools")
    parser.add_argument("--max-length", type=int, help="tokens read of a text (default: as many as the teacher reads)")
    parser.add_argument("--labelled", metavar="FILE", help="texts with labels, of an embedder pairs with a score: to score both on")
    parser.add_argument("--label-column", help="of --labelled")
    parser.set_defaults(command=_distil, takes_overrides=True)


def _distil(args: argparse.Namespace) -> None:
    config = distil_config(
        args.teacher,
        args.texts,
        text_columns=args.text_columns,
        targets=args.target,
        pooling=args.pooling,
        max_length=args.max_length,
    )
    config = override(config, parse_overrides(args.rest))
    # Imported here, so that --help answers at once.
    from transkimmer_jax.compilation import use_compilation_cache
    from transkimmer_jax.memory import keep_freed_memory
    from transkimmer_jax.training import student_shape, students
    from transkimmer_jax.training.loop import train_and_evaluate

    students.require_labelled(config, args.labelled, args.label_column)
    keep_freed_memory()
    use_compilation_cache()
    if not args.whole:
        config = student_shape.with_student_shape(config, args.output, args.layers)
    result = train_and_evaluate(config, args.output, shlex.join(["transkimmer", *args.arguments]))
    model = os.path.join(args.output, "model")
    print(students.report(result, students.compare(config, model, args.labelled, args.label_column)))
    print(f"\nmodel: {model}")
