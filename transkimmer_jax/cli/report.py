"""`report`: a page that shows which words a model read, or the curves of a training run."""

import pathlib

import click

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import options
from transkimmer_jax.cli.options import COUNT, Command, Range
from transkimmer_jax.errors import ConfigError

SHARE = Range(0, 1, min_open=True)


@click.command("report", cls=Command, short_help="A page that shows which words the model read, or how a run went.")
@click.option("--model", help="Checkpoint folder or hub id, e.g. runs/quickstart/model.")
@click.option("--run", metavar="WORKDIR", help="Instead, a run of `train` or `distil`, which may still go on.")
@click.option("--input", metavar="FILE", help=".txt (a text a line), .jsonl or .csv file.")
@click.option("--task", help="Instead, the validation split of a task, e.g. glue/sst2.")
@options.data_dir
@click.option("--output", required=True, metavar="FILE", help="The page, e.g. report.html.")
@click.option("--text-columns", multiple=True, metavar="COLUMN", help="One, or two for pairs (default: the model's).")
@click.option("--label-column", metavar="COLUMN", help="Labels of --input, to mark errors.")
@click.option("--texts", type=COUNT, default=200, show_default=True, help="How many.")
@click.option("--budgets", type=SHARE, multiple=True, metavar="SHARE", help="More shares of FLOPs, for a slider, e.g. 0.6 0.3.")
@click.option("--title", help="Of the page (default: by the folder's name).")
@options.threshold()
@options.runtime
@click.pass_context
def command(
    context: click.Context,
    model: str | None,
    run: str | None,
    output: str,
    title: str | None,
    threshold: float | None,
    budgets: tuple[float, ...],
    runtime: str | None,
    provider: str | None,
    precision: str | None,
    **source,
) -> None:
    """Write one HTML file that needs no network.

    With --model it shows texts with their words shaded by the layers that computed them, what each text costs, and the answers; with
    --run the curves of a training run.
    """
    if (model is None) == (run is None):
        raise ConfigError("give either --model or --run")
    if run is not None:
        given = [name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
        other = next((name for name in given if name not in ("run", "output", "title")), None)
        if other is not None:
            raise ConfigError(f"--{other.replace('_', '-')} is of --model: a report of a run shows its curves")
        from transkimmer_jax.reporting.page import run_page
        from transkimmer_jax.reporting.runs import read_runs

        files.write_text(output, run_page(read_runs(run, title)))
        print(output)
        return
    assert model is not None
    if (source["input"] is None) == (source["task"] is None):
        raise ConfigError("a report of a model shows how it reads texts: give --input, or --task")
    from transkimmer_jax.checkpoints.locations import resolve
    from transkimmer_jax.data import pipeline
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.requirements import require_skimming
    from transkimmer_jax.reporting import texts
    from transkimmer_jax.reporting.contents import contents
    from transkimmer_jax.reporting.page import page

    folder = resolve(model)
    request = texts.TextsRequest(model, **source)
    shown, truths = texts.of_task(request, folder) if request.task else texts.of_file(request, folder)
    engine = SkimEngine.from_pretrained(
        folder, threshold=threshold, depths=True, pairs=None, runtime=runtime, provider=provider, precision=precision
    )
    require_skimming(model, engine.arch, budgets=budgets)
    tokenizer = pipeline.load_tokenizer(folder, engine.arch.vocab_size)
    files.write_text(output, page(contents(title or f"What {_name(model)} read", engine, tokenizer, shown, truths, list(budgets))))
    print(output)


def _name(model: str) -> str:
    """Of a model, for people: the folder's, or that of its run; of a hub id the id."""
    folder = pathlib.Path(model).resolve()
    if not folder.is_dir():
        return model
    return folder.parent.name if folder.name == "model" else folder.name
