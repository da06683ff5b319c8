"""`evaluate`: metric, tokens kept and FLOPs of a model on a task or a file."""

import argparse
import json

from transkimmer_jax import files
from transkimmer_jax.config import DataConfig
from transkimmer_jax.errors import CheckpointError, ConfigError


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "evaluate",
        help="metric, tokens kept and FLOPs of a model folder",
        description="Evaluate a model folder on a task or a file.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id, e.g. runs/quickstart/model")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--task", help="glue/<name>, imdb_reviews or movie_reviews")
    data.add_argument("--data", help="a .jsonl or .csv file with the model's text columns and labels")
    parser.add_argument("--data-dir", help="TFDS folder (default: TFDS_DATA_DIR, or that of tensorflow-datasets)")
    parser.add_argument("--text-columns", nargs="+", help="columns of --data (default: the model's, or 'text')")
    parser.add_argument("--label-column", help="column of --data (default: the model's, or 'label')")
    parser.add_argument("--threshold", type=float, help="keep a token where its margin exceeds this (default: the model's)")
    parser.add_argument("--max-length", type=int, help="tokens kept of an example (default: the model's, or the task's)")
    parser.add_argument(
        "--mode",
        choices=("compacted", "masked"),
        default="compacted",
        help="compute kept tokens only, as a served model does, or all of them under a mask, as training does (default: compacted)",
    )
    parser.add_argument("--batch-size", type=int, default=DataConfig().eval_batch_size, help="texts of one batch (default: %(default)s)")
    parser.add_argument("--examples", type=int, help="evaluate only this many examples, drawn by seed 0")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.set_defaults(command=_evaluate)


def _check(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for numbers that cannot be meant."""
    for name, least in (("max_length", 3), ("batch_size", 1), ("examples", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if args.text_columns is not None and len(args.text_columns) > 2:
        raise ConfigError(f"--text-columns names one column or two, not {len(args.text_columns)}")


def _evaluate(args: argparse.Namespace) -> None:
    # Imported here, so that --help answers at once.
    import jax
    from flax import nnx

    from transkimmer_jax.data import pipeline, sources
    from transkimmer_jax.data.batches import evaluation_batches
    from transkimmer_jax.data.tasks import FILES_MAX_LENGTH, Task, get_task
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.schedule import Calibration
    from transkimmer_jax.training import evaluation
    from transkimmer_jax.weights import huggingface
    from transkimmer_jax.weights.files import read_config, resolve

    _check(args)
    folder = resolve(args.model)
    saved = read_config(folder)
    trained_on = saved.get("task", {})
    data = DataConfig(
        task="files" if args.data else args.task,
        data_dir=args.data_dir,
        validation_file=args.data,
        text_columns=tuple(args.text_columns or (trained_on.get("text_columns", ("text",)) if args.data else ("text",))),
        label_column=args.label_column or (trained_on.get("label_column", "label") if args.data else "label"),
        max_length=args.max_length or (trained_on.get("max_length") if args.data or args.task == trained_on.get("name") else None),
    )
    model = huggingface.load(folder, dense=None)
    if args.data:
        # The file's labels are those the model knows, whichever of them happen to occur in it.
        regression = saved.get("problem_type") == "regression"
        names = None if regression else tuple(saved["id2label"][str(index)] for index in range(model.arch.num_labels))
        metrics = ("pearson", "spearman") if regression else ("accuracy", "macro_f1")
        task = Task("files", data.text_columns, names, data.max_length or FILES_MAX_LENGTH, metrics, data.label_column)
    else:
        task = get_task(data)
    limit = model.arch.max_position_embeddings
    if task.max_length > limit:
        raise CheckpointError(f"{task.max_length} tokens are more than the {limit} positions of {args.model}: give a lower --max-length")
    if task.num_labels != model.arch.num_labels:
        raise CheckpointError(f"{args.model} has {model.arch.num_labels} labels, {task.name} has {task.num_labels}")
    tokenizer = pipeline.load_tokenizer(folder, model.arch.vocab_size)
    threshold = args.threshold if args.threshold is not None else (model.arch.skim.threshold if model.arch.skim else 0.0)
    if args.mode == "compacted":
        calibration = Calibration.load(folder, model.arch.num_hidden_layers) if model.arch.skim else None
        engine = SkimEngine(model, max_length=task.max_length, calibration=calibration, batch_size=args.batch_size, threshold=threshold)
    else:
        graph, params = nnx.split(model)
        step = evaluation.evaluation_step(graph)
    evaluations = {}
    for name, split in task.validation_splits.items():
        examples = (
            sources.read_file(args.data, task.text_columns, task.label_column, task.label_names)
            if args.data
            else sources.load_split(task, split, data)
        )
        examples = sources.subsample(examples, args.examples, seed=0)
        tokenized = pipeline.tokenize(examples, tokenizer, task.max_length)
        if args.mode == "compacted":
            predictions = engine.predict_tokenized(tokenized, progress=True)
        else:
            batches = evaluation_batches(tokenized, args.batch_size, data.length_buckets, task.max_length, tokenizer.pad_token_id)
            predictions = evaluation.predict(step, params, batches, len(examples), threshold, f"evaluating {name}")
        evaluations[name] = evaluation.summarize(predictions, examples.labels, task, model.arch)
    result = evaluation.describe(task, evaluations) | {
        "task": task.name, "model": args.model, "threshold": threshold, "mode": args.mode, "device": jax.devices()[0].device_kind,
    }  # fmt: skip
    if args.json:
        files.write_json(args.json, result)
    print(json.dumps(result, indent=2))
