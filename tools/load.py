"""`load`: requests to a server, and what became of them."""

import argparse
import json
import os
from typing import Any

from tools import records as tool_records
from tools.flags import add_runtime, add_threshold, runtime_options
from transkimmer_jax import extras
from transkimmer_jax.checkpoints import files
from transkimmer_jax.cli.serve import KEY_VARIABLE
from transkimmer_jax.errors import ConfigError, DataError, InferenceError

_ROUTES = ("/predict", "/embed", "/v1/embeddings")
_DESCRIPTION = """
Send texts of a file to a server, and print throughput and waiting times as JSON. --clients is a closed loop: each asks again once it is
answered, so the server is as busy as they can make it. --rate is an open loop: requests come at random times that do not depend on the
answers, as those of users do.

With --check every answer is compared with what the engine says of the same texts here. The status is 2 where answers are wrong, where
requests are lost or get another status than 200 and 429, and where none is answered.
"""


def main(arguments: list[str]) -> None:
    parser = tool_records.parser(_DESCRIPTION)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server (default: %(default)s)")
    parser.add_argument("--route", default="/predict", help="/predict, /embed, or /v1/embeddings, maybe behind /models/NAME")
    parser.add_argument("--input", required=True, metavar="FILE", help=".jsonl, .csv or .txt of texts")
    parser.add_argument("--text-columns", nargs="+", default=["text"], metavar="COLUMN", help="one, or two for pairs (default: text)")
    parser.add_argument("--texts", type=int, default=5000, help="read of the file at most (default: %(default)s)")
    parser.add_argument("--texts-per-request", type=int, default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, help="of a closed loop")
    parser.add_argument("--rate", type=float, help="requests a second of an open loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="that are measured (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, metavar="SECONDS", help="before these (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help=f"of the server (default: the environment's {KEY_VARIABLE}, or none)")
    parser.add_argument("--check", metavar="DIR", help="folder or hub id of the model that the server has")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="of --check (default: %(default)s); in int8 an answer depends on the texts that are computed with it: give 0.05",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    served = parser.add_argument_group("of --check, as `serve` was told")
    add_threshold(served)
    served.add_argument("--max-length", type=int, help="tokens read of a text (default: the model's)")
    served.add_argument("--pooling", choices=("mean", "cls"), help="of a bare encoder")
    add_runtime(served)
    _load(parser.parse_args(arguments))


def _check(args: argparse.Namespace) -> None:
    """Raises `ConfigError` for what cannot be meant."""
    if (args.clients is None) == (args.rate is None):
        raise ConfigError("--clients or --rate: give one of them")
    if not args.route.endswith(_ROUTES):
        raise ConfigError(f"--route {args.route} is none of {', '.join(_ROUTES)}")
    if len(args.text_columns) > 2:
        raise ConfigError(f"--text-columns names one column or two, not {len(args.text_columns)}")
    for name in ("texts", "texts_per_request", "clients", "rate", "seconds"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be positive, not {value:g}")
    if not args.warm_up >= 0:
        raise ConfigError(f"--warm-up is seconds from 0 on, not {args.warm_up:g}")


def _load(args: argparse.Namespace) -> None:
    _check(args)
    with extras.needed("serve", "sending requests"):
        from tools import traffic
    texts = _texts(args)
    expected, labels = _expected(args, texts)
    bodies = []
    for start in range(0, len(texts), args.texts_per_request):
        some = slice(start, start + args.texts_per_request)
        bodies.append(
            traffic.Body(traffic.body_of(args.route, texts[some]), len(texts[some]), None if expected is None else expected[some])
        )
    pace = traffic.Traffic(args.seconds, args.clients, args.rate, args.warm_up)
    key = os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key
    result = traffic.run(args.url.rstrip("/") + args.route, bodies, pace, api_key=key, labels=labels, tolerance=args.tolerance)
    result |= {"texts_per_request": args.texts_per_request, "command": tool_records.command()}
    if args.json:
        files.write_json(args.json, result)
    print(json.dumps(result, indent=2))
    _require_answers(result)


def _require_answers(result: dict[str, Any]) -> None:
    """Raises `InferenceError` where answers are wrong or missing. A 429 is none of these, as a client asks again, unless all get it."""
    if not result["requests"]:
        raise InferenceError("no request was sent: give more --seconds, or a higher --rate")
    expected = {"200", "429"} if result["answered"] else {"200"}
    refused = {status: count for status, count in result["statuses"].items() if status.isdecimal() and status not in expected}
    if result["wrong_texts"] or result["lost"] or refused:
        told = "".join(f", {count} with status {status}" for status, count in sorted(refused.items()))
        raise InferenceError(f"{result['wrong_texts']} texts were answered wrongly, {result['lost']} requests not at all{told}")


def _texts(args: argparse.Namespace) -> list[Any]:
    from transkimmer_jax.data import records

    texts: list[Any] = []
    for where, record in records.read_records(args.input):
        columns = [records.column_text(record, column, where) for column in args.text_columns]
        if all(columns):  # servers refuse empty texts
            texts.append(columns[0] if len(columns) == 1 else (columns[0], columns[1]))
        if len(texts) == args.texts:
            break
    if not texts:
        raise DataError(f"{args.input} holds no text: give some to send")
    return texts


def _expected(args: argparse.Namespace, texts: list[Any]) -> tuple[Any, tuple[str, ...] | None]:
    """What the engine says of each text, and of which labels; None without --check."""
    if args.check is None:
        return None, None
    import numpy as np

    from transkimmer_jax.checkpoints.huggingface import is_bare
    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.inference.requirements import require_positions

    pooling = args.pooling if is_bare(args.check) else None
    engine = SkimEngine.from_pretrained(
        args.check, threshold=args.threshold, max_length=args.max_length, pooling=pooling, **runtime_options(args)
    )
    require_positions(args.check, engine.arch, args.max_length)
    if args.route.endswith("/predict"):
        if len(engine.label_texts) < 2 and not engine.arch.multi_label:
            raise ConfigError(f"--check {args.check} gives one score: /predict is checked for classifiers")
        answers = engine.predict(texts, progress=False)
        return np.array([[(answer.probabilities or {})[label] for label in engine.label_texts] for answer in answers]), engine.label_texts
    return engine.encode(texts, normalize_embeddings=True, show_progress_bar=False), None


if __name__ == "__main__":
    tool_records.start(main)
