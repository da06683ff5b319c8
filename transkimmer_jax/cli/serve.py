"""`serve`: models over HTTP."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from transkimmer_jax import extras
from transkimmer_jax.cli import options
from transkimmer_jax.cli.options import COUNT, LENGTH, POOLING, Command
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


def _limits(command: Callable) -> Callable:
    """An option for each limit."""
    for name, meaning in reversed(_LIMITS.items()):
        default = getattr(Limits, name)
        command = click.option(
            f"--{name.replace('_', '-')}", type=type(default), default=default, show_default=True, metavar="N", help=f"{meaning}."
        )(command)
    return command


@click.command("serve", cls=Command, short_help="Models over HTTP.")
@click.option("--model", required=True, multiple=True, metavar="[NAME=]DIR", help="Folders or hub ids; names for several.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option("--api-key", metavar="KEY", help=f"Of requests (default: the environment's {KEY_VARIABLE}, or none).")
@options.threshold("each model's")
@click.option("--threshold-range", type=(float, float), metavar="LOW HIGH", help="Thresholds that a request may ask for (default: none).")
@click.option("--auto-truncate", is_flag=True, help="Cut texts that are too long where a request does not say.")
@_limits
@click.option("--max-length", type=LENGTH, help="Tokens read of a text (default: each model's).")
@click.option("--batch-tokens", type=COUNT, help="Tokens of one call of the network (default: by the device).")
@click.option("--pooling", type=POOLING, help="Make bare encoders embedders with this pooling.")
@options.runtime
def command(**given: Any) -> None:
    """Serve models over HTTP, with the routes of text-embeddings-inference and of OpenAI's embeddings.

    /predict, /rerank, /embed, /embed_all, /similarity, /v1/embeddings, /tag, /answer, /tokenize, /decode, /info, /health, /metrics and
    /docs. A model answers the routes of its head. With several models, a request names one in its field 'model' or in its path,
    /models/NAME/predict; otherwise the first that answers the route does.

    After a SIGTERM it answers what has come in, within --drain-seconds, and accepts nothing further.
    """
    _serve(argparse.Namespace(**given))


def _named(models: Sequence[str]) -> dict[str, str]:
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
    from transkimmer_jax.inference.requirements import require_positions, require_skimming
    from transkimmer_jax.serving.models import ServedModel

    bare = _bare(named, args.pooling)
    engine_options = {name: getattr(args, name) for name in ("runtime", "provider", "precision", "batch_tokens")}
    if args.max_length is not None:
        engine_options["max_length"] = args.max_length
    models = []
    for name, folder in named.items():
        make = functools.partial(SkimEngine.from_pretrained, folder, pooling=args.pooling if name in bare else None, **engine_options)
        models.append(ServedModel(name, folder, make, args.precision))
        require_positions(folder, models[-1].engine.arch, args.max_length)
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
