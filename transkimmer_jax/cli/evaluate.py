"""`evaluate`: scores of a model, its curve over thresholds, or its retrieval."""

import json
import shlex
from typing import Any

import click

from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli import options
from transkimmer_jax.cli.options import COUNT, LENGTH, POOLING, Command, Range
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import ConfigError

_CURVE = {"points": 16, "dense": None, "budget": None, "tolerance": None, "guarantee": None, "risk": None, "apply": False}
_RETRIEVAL = {"queries": None, "documents": None, "judgements": None, "reranker": None, "relevant": None, "top": 50}


@click.command("evaluate", cls=Command, short_help="Metric, tokens kept and FLOPs of a model; its curve; its retrieval.")
@options.model
@click.option("--task", help="glue/<name>, imdb_reviews, yelp_polarity_reviews, 20newsgroups, movie_reviews or squad/v1.1, squad/v2.0.")
@click.option("--data", metavar="FILE", help=".jsonl or .csv file with the model's text columns and labels, instead of --task.")
@options.data_dir
@click.option("--text-columns", multiple=True, help="Columns of --data (default: the model's; of embedders sentence1 sentence2).")
@click.option("--label-column", help="Column of --data (default: the model's, or 'label'; of embedders 'score').")
@click.option("--max-length", type=LENGTH, help="Tokens read of an example (default: the model's, or the task's).")
@click.option("--batch-size", type=COUNT, default=DataConfig().eval_batch_size, show_default=True)
@click.option("--examples", type=COUNT, help="Use only this many examples, drawn by seed 0.")
@click.option("--split", type=click.Choice(("validation", "test")), default="validation", show_default=True, help="Of --task.")
@click.option("--pooling", type=POOLING, help="Evaluate a bare encoder as an embedder with this pooling.")
@options.threshold()
@options.runtime
@click.option(
    "--mode",
    type=click.Choice(("compacted", "masked")),
    default="compacted",
    show_default=True,
    help="Compute kept tokens only, or all of them under a mask, as training does.",
)
@click.option("--predictions", metavar="FILE", help="Also write one JSON line a text: label, predicted, probabilities, kept.")
@click.option("--json", "json_file", metavar="FILE", help="Also write the result to this file.")
@click.option("--curve", metavar="DIR", help="Write sweep.json, sweep.csv and sweep.png over thresholds to this folder.")
@click.option("--points", type=click.IntRange(min=3), default=16, show_default=True, help="Of the curve; about two evaluations each.")
@click.option("--dense", metavar="DIR", help="Dense model to compare the curve with (default: the same weights without skimming).")
@click.option("--budget", type=Range(0, 1, min_open=True), help="Choose the best threshold within this share of FLOPs.")
@click.option("--tolerance", type=Range(0, 1, max_open=True), help="Choose the cheapest threshold with at most this loss against dense.")
@click.option("--guarantee", type=Range(0, 1, min_open=True, max_open=True), help="Probability with which --tolerance holds, e.g. 0.95.")
@click.option("--risk", type=click.Choice(("accuracy", "disagreement")), help="Loss that --guarantee bounds (default: accuracy).")
@click.option("--apply", is_flag=True, help="Write the chosen threshold and its calibration into the model folder.")
@click.option("--queries", metavar="FILE", help="Retrieval: .jsonl or .csv with columns 'id' and 'text'.")
@click.option("--documents", metavar="FILE", help="Retrieval: the same, of documents.")
@click.option("--judgements", metavar="FILE", help="Retrieval: of TREC or BEIR, or columns 'query', 'document', 'relevance'.")
@click.option("--reranker", metavar="DIR", help="Retrieval: cross-encoder that ranks the first documents again.")
@click.option("--relevant", metavar="LABEL", help="Retrieval: label of the reranker whose probability is the score.")
@click.option("--top", type=COUNT, default=50, show_default=True, help="Retrieval: documents of a query that are ranked again.")
def command(mode: str, predictions: str | None, json_file: str | None, curve: str | None, **given: Any) -> None:
    """Evaluate a model on a task or a file: JSON on standard output, tables on standard error.

    Embedders are scored by the cosines of scored pairs, such as those of glue/stsb.

    --curve evaluates a skimming model at thresholds that are spread evenly over the FLOPs they spend, and --budget or --tolerance
    chooses one. With --guarantee 0.95 a part of the texts chooses candidates and the others test them: the chosen threshold's true
    risk exceeds --tolerance with a probability of at most 5 % (Learn then Test). Give it texts that training has not seen.

    --queries, --documents and --judgements measure nDCG, recall and MRR of an embedder, and of a cross-encoder behind it.
    """
    curve_options, retrieval_options = ({name: given.pop(name) for name in names} for names in (_CURVE, _RETRIEVAL))
    if curve is None:
        _refuse(curve_options, _CURVE, "--curve")
    if retrieval_options["queries"] is None:
        _refuse(retrieval_options, _RETRIEVAL, "--queries")
    from transkimmer_jax.evaluation import labelled, scoring, search, threshold_choice

    request = labelled.Request(**given)
    if retrieval_options["queries"] is not None:
        if request.task or request.data or curve or None in (retrieval_options["documents"], retrieval_options["judgements"]):
            raise ConfigError("retrieval is evaluated on --queries, --documents and --judgements alone: give these three")
        line = shlex.join(["transkimmer", *click.get_current_context().obj])
        result = {"command": line} | search.evaluate_retrieval(request, search.Collection(**retrieval_options))
    elif (request.task is None) == (request.data is None):
        raise ConfigError("give either --task or --data")
    elif curve is not None:
        if curve_options["budget"] is not None and curve_options["tolerance"] is not None:
            raise ConfigError("--budget and --tolerance: give one of them")
        if predictions or json_file or mode == "masked" or request.threshold is not None:
            raise ConfigError("--curve goes without --predictions, --json, --mode masked and --threshold")
        threshold_choice.choose_threshold(request, threshold_choice.Choice(curve, **curve_options))
        return
    else:
        result = scoring.evaluate(request, mode, predictions)
    if json_file:
        files.write_json(json_file, result)
    # A field a line: a matrix would fill the screen with a number a line.
    print("{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()) + "\n}")


def _refuse(given: dict[str, Any], defaults: dict[str, Any], needed: str) -> None:
    """Raises `ConfigError` for an option that has no effect without another."""
    name = next((name for name, value in given.items() if value != defaults[name]), None)
    if name is not None:
        raise ConfigError(f"--{name} needs {needed}")
