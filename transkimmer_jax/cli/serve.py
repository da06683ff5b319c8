"""`serve`: models over HTTP."""

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from transkimmer_jax import extras
from transkimmer_jax.cli import runtime
from transkimmer_jax.cli.threshold import add_threshold, require_skimming
from transkimmer_jax.errors import ConfigError
from transkimmer_jax.serving.limits import Limits

if TYPE_CHECKING:
    from transkimmer_jax.serving.models import ServedModel

KEY_VARIABLE = "TRANSKIMMER_API_KEY"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LIMITS = {
    "max_concurrent_requests": "requests that are waited for at a time; a further one is refused with 429",
    "max_batch_tokens": "tokens that are computed together",
    "max_client_batch_size": "texts of one request",
    "max_input_characters": "characters of one text",
    "payload_limit": "bytes of a request's body",
    "max_header_bytes": "bytes of a request's line and headers",
    "read_seconds": "in which a request must have come in whole, and a client must read on",
    "keep_alive_seconds": "that a connection may stay open between requests",
    "drain_seconds": "that requests have to end in after a SIGTERM",
}
_DESCRIPTION = """
Serve models over HTTP, with the routes of text-embeddings-inference and of OpenAI's embeddings: /predict, /rerank, /embed, /embed_all,
/similarity, /v1/embeddings, /tag, /answer, /tokenize, /decode, /info, /health, /metrics and /docs. A model answers the routes that its
head is for. With several models, a request names one in its field 'model' or in its path, /models/NAME/predict; otherwise the first that
answers the route does.

A SIGTERM ends it: what has come in is answered within --drain-seconds, nothing further is accepted.
"""


def add(commands) -> None:
    """Declare the command and its flags."""
    parser = commands.add_parser(
        "serve",
        help="models over HTTP",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, nargs="+", action="extend", metavar="[NAME=]DIR", help="checkpoint folders or hub ids; names for several"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s; 0: any that is free)")
    parser.add_argument("--api-key", metavar="KEY", help=f"that requests must carry (default: the environment's {KEY_VARIABLE}, or none)")
    add_threshold(parser, "each model's")
    parser.add_argument(
        "--threshold-range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="thresholds that a request may ask for (default: none)"
    )
    parser.add_argument("--auto-truncate", action="store_true", help="cut texts that are too long where a request does not say")
    for name, meaning in _LIMITS.items():
        default = getattr(Limits, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="N", help=f"{meaning} (default: {default:,})"
        )
    parser.add_argument("--max-length", type=int, help="tokens read of a text (default: each model's)")
    parser.add_argument("--batch-tokens", type=int, help="of these, tokens of one call of the network (default: by the device)")
    parser.add_argument("--pooling", choices=("mean", "cls"), help="makes bare encoders embedders; others pool as their folders say")
    runtime.add_arguments(parser)
    parser.set_defaults(command=_serve)


def _named(models: list[str]) -> dict[str, str]:
    """Folders by name. Raises `ConfigError` for names that cannot be meant."""
    named: dict[str, str] = {}
    for given in models:
        name, separator, folder = given.partition("=")
        if not separator:
            name, folder = given, given
            if len(models) > 1:
                raise ConfigError(f"--model {given}: with several models each needs a name: NAME={given}")
        elif not _NAME.fullmatch(name):
            raise ConfigError(f"--model {given}: a name is of letters, digits, '.', '_' and '-'")
        if name in named:
            raise ConfigError(f"--model {given}: there is a model {name} already")
        named[name] = folder
    return named


def _api_key(args: argparse.Namespace) -> str | None:
    key = os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key
    if key is not None and (not key or key != key.strip() or not key.isprintable() or not key.isascii()):
        raise ConfigError("the API key must be printable ASCII without space around it")
    return key


def _bare(named: dict[str, str], pooling: str | None) -> set[str]:
    """Names of the folders that `--pooling` is for: those that name neither a head nor a pooling, since others say what they are.

    Raises `ConfigError` where it is given and there is none.
    """
    if pooling is None:
        return set()
    from transkimmer_jax.checkpoints.huggingface import is_bare

    bare = {name for name, folder in named.items() if is_bare(folder)}
    if not bare:
        raise ConfigError(f"--pooling {pooling} is of bare encoders, and none of {', '.join(named.values())} is one: leave it out")
    return bare


def _models(args: argparse.Namespace, named: dict[str, str]) -> list["ServedModel"]:
    """What is served, ready for its first request."""
    import functools

    from transkimmer_jax.inference.engine import SkimEngine
    from transkimmer_jax.serving.models import ServedModel

    bare = _bare(named, args.pooling)
    options = runtime.options(args) | {"batch_tokens": args.batch_tokens}
    if args.max_length is not None:
        options["max_length"] = args.max_length
    models = []
    for name, folder in named.items():
        make = functools.partial(SkimEngine.from_pretrained, folder, pooling=args.pooling if name in bare else None, **options)
        models.append(ServedModel(name, folder, make, args.precision))
        runtime.require_positions(folder, models[-1].engine.arch, args.max_length)
        if args.threshold is not None and models[-1].engine.arch.skim is not None:  # known once it is loaded; dense ones may be beside it
            models[-1].engine.threshold = args.threshold
    if not any(model.engine.arch.skim for model in models):
        require_skimming(models[0].folder, models[0].engine.arch, threshold=args.threshold, threshold_range=args.threshold_range)
    for model in models:
        model.warm_up()
    return models


def _serve(args: argparse.Namespace) -> None:
    named, key = _named(args.model), _api_key(args)
    with extras.needed("serve", "serving"):
        from transkimmer_jax.serving import app, server
    import jax

    from transkimmer_jax.serving.models import Models

    threshold_range = None if args.threshold_range is None else tuple(args.threshold_range)
    limits = Limits(auto_truncate=args.auto_truncate, threshold_range=threshold_range, **{name: getattr(args, name) for name in _LIMITS})
    # Bound first, so that an address that cannot be had is known before a model is loaded.
    with server.bind(args.host, args.port) as bound:
        models = _models(args, named)
        compute_type = jax.default_backend() if models[0].engine.runtime.name == "jax" else "cpu"
        host, port = bound.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        told = ", ".join(f"{model.name} ({model.kind})" for model in models)
        application = app.create_app(Models(models), limits, compute_type=compute_type, api_key=key)
        serving = server.create_server(application, limits, lambda: print(f"serving {told} on {address}", file=sys.stderr, flush=True))
        serving.run(sockets=[bound])
    service = application.state.service
    told = f"{service.stopped} requests were not answered within --drain-seconds" if service.stopped else "what had come in is answered"
    print(f"stopped; {told}", file=sys.stderr, flush=True)
    if service.is_at_work:
        os._exit(0)  # the interpreter's own end would abort the process when a runtime's code comes back to it from a thread
