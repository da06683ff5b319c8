"""`distil`: a cheaper student of an encoder, from texts without labels."""

import os
import shlex
from typing import Literal

import click

from transkimmer_jax.cli.options import COUNT, LENGTH, POOLING, ConfigCommand, overrides
from transkimmer_jax.config import DataConfig, describe, override
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.training.distillation import TARGET, distil_config


def _fields() -> str:
    return describe(distil_config("TEACHER"))


@click.command("distil", cls=ConfigCommand, describe=_fields, short_help="A skimming student of any encoder, from texts without labels.")
@click.option("--teacher", required=True, metavar="MODEL", help="Folder or hub id of the dense model.")
@click.option("--texts", required=True, multiple=True, metavar="FILE", help=".txt (a text a line), .jsonl or .csv files.")
@click.option("--text-columns", multiple=True, default=DataConfig().text_columns, show_default=True, help="One, or two for pairs.")
@click.option(
    "--target",
    type=float,
    multiple=True,
    default=(TARGET,),
    show_default=True,
    metavar="SHARE",
    help="Share of the dense model's FLOPs to spend. With several shares one student serves all: --threshold 0.6 spends 0.4.",
)
@click.option("--layers", type=COUNT, help="Number of the teacher's layers to keep (default: by head and length, docs/distillation.md).")
@click.option("--whole", is_flag=True, help="Keep all layers and neurons.")
@click.option("--output", required=True, metavar="FOLDER", help="Folder of the run; the student is in FOLDER/model.")
@click.option("--pooling", type=POOLING, help="Of an embedder whose folder does not name its pooling.")
@click.option("--max-length", type=LENGTH, help="Tokens read of a text (default: the teacher's).")
@click.option("--labelled", metavar="FILE", help="Texts with labels, of an embedder pairs with a score, to score both models on.")
@click.option("--label-column", help="Column of --labelled.")
@click.pass_context
def command(
    context: click.Context,
    teacher: str,
    texts: tuple[str, ...],
    text_columns: tuple[str, ...],
    target: tuple[float, ...],
    layers: int | None,
    whole: bool,
    output: str,
    pooling: Literal["mean", "cls"] | None,
    max_length: int | None,
    labelled: str | None,
    label_column: str | None,
) -> None:
    """Train a skimming student of a dense model from texts alone; the student starts from the teacher's weights.

    The teacher is a classifier, cross-encoder, embedder, tagger or reader. A tenth of the texts is held out: one half chooses the
    checkpoint, the other gives the printed numbers. The same --output resumes.
    """
    if layers is not None and whole:
        raise ConfigError("--layers and --whole: give one of them")
    config = distil_config(teacher, list(texts), text_columns=text_columns, targets=list(target), pooling=pooling, max_length=max_length)
    config = override(config, overrides(context))
    # Imported here, so that --help answers at once.
    from transkimmer_jax.compilation import use_compilation_cache
    from transkimmer_jax.memory import keep_freed_memory
    from transkimmer_jax.training import student_shape, students
    from transkimmer_jax.training.loop import train_and_evaluate

    students.require_labelled(config, labelled, label_column)
    keep_freed_memory()
    use_compilation_cache()
    if not whole:
        config = student_shape.with_student_shape(config, output, layers)
    result = train_and_evaluate(config, output, shlex.join(["transkimmer", *context.obj]))
    model = os.path.join(output, "model")
    print(students.report(result, students.compare(config, model, labelled, label_column)))
    print(f"\nmodel: {model}")
