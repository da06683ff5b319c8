"""The ASGI application."""

import contextlib
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route as Path

from transkimmer_jax.serving import errors, metrics, openapi, schemas
from transkimmer_jax.serving.errors import RequestError
from transkimmer_jax.serving.exchange import ClientGone, Exchange, Service, json_response
from transkimmer_jax.serving.guards import ApiKey, BodyLimit, Stop
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.metrics import Metrics
from transkimmer_jax.serving.models import Models
from transkimmer_jax.serving.pipeline import Pipeline
from transkimmer_jax.serving.routes import ROUTES, Route, task_of

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
_PREFIX = "/models/{model}"
# What asks whether the server is alive has no key, and neither has a browser that shows its documentation.
OPEN_PATHS = frozenset({"/", "/health", "/ping", "/docs", "/openapi.json"})


def create_app(models: Models, limits: Limits, *, compute_type: str = "cpu", api_key: str | None = None) -> Starlette:
    """The server's application; its threads run from the start of its lifespan to the end.

    Args:
      models: that are served.
      limits: for clients.
      compute_type: of the devices, for a header.
      api_key: that requests must carry; None: they need not.
    """
    numbers = Metrics()
    service = Service(models, limits, numbers, Pipeline(limits, numbers), compute_type)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.pipeline.start()
        yield
        service.pipeline.stop()

    version = importlib.metadata.version("transkimmer_jax")
    description, page = openapi.document(ROUTES, version), openapi.page(ROUTES, version)
    # Paths are compared one after the other, so what is asked most stands first.
    paths = [
        Path(prefix + path, _route(service, route), methods=["POST"])
        for prefix in ("", _PREFIX)
        for route in ROUTES
        for path in route.paths
    ]
    paths += [
        Path("/", _task(service), methods=["POST"]),
        Path(_PREFIX, _task(service), methods=["POST"]),
        Path("/", _health(service), methods=["GET"]),
        Path("/health", _health(service), methods=["GET"]),
        Path("/ping", _health(service), methods=["GET"]),
        Path("/info", _info(service, version), methods=["GET"]),
        Path(_PREFIX + "/info", _info(service, version), methods=["GET"]),
        Path("/metrics", _metrics(service), methods=["GET"]),
        Path("/docs", _constant(HTMLResponse(page)), methods=["GET"]),
        Path("/openapi.json", _constant(json_response(description)), methods=["GET"]),
    ]
    guards = [Middleware(BodyLimit, most=limits.payload_limit, refused=numbers.failed)]
    if api_key is not None:
        guards.insert(0, Middleware(ApiKey, key=api_key, open_paths=OPEN_PATHS, refused=numbers.failed))
    guards.insert(0, Middleware(Stop, refused=service.cut_off))
    app = Starlette(routes=paths, middleware=guards, lifespan=lifespan, exception_handlers={HTTPException: _no_route})
    app.state.service = service
    return app


def _route(service: Service, route: Route) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async def respond() -> Response:
            body = schemas.parse(route.body, await request.body())
            in_path = request.path_params.get("model")
            model = service.models.choose(in_path, body.model, lambda model: route.answers(model, body), route.paths[0])
            return await route.handler(Exchange(service, request, model, route.counted), body)

        return await _answered(service, respond, errors.has_openai_shape(route.paths[0]))

    return endpoint


def _task(service: Service) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async def respond() -> Response:
            raw = await request.body()
            fields = schemas.parse_object(raw)
            in_path, in_body = request.path_params.get("model"), fields.get("model")
            model = service.models.choose(in_path, in_body if isinstance(in_body, str) else None, lambda model: True, "/")
            route = task_of(model, fields)
            return await route.handler(Exchange(service, request, model, route.counted), schemas.parse(route.body, raw))

        return await _answered(service, respond, False)

    return endpoint


async def _answered(service: Service, respond: Callable[[], Awaitable[Response]], openai: bool) -> Response:
    """The answer, or what the client is told instead; nothing of how the server failed leaves it."""
    try:
        return await respond()
    except RequestError as error:
        refusal = error
    except (ClientGone, ClientDisconnect):
        service.metrics.failed("client_gone")
        return Response(status_code=499)  # which nobody reads
    except Exception as error:
        logger.error("a request failed", exc_info=error)
        refusal = errors.internal()
    service.metrics.failed(refusal.label)
    return json_response(refusal.content(openai), refusal.status)


def _health(service: Service) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if await service.is_healthy():
            return Response()
        return json_response(errors.unhealthy("unhealthy").content(False), 503)

    return endpoint


def _info(service: Service, version: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async def respond() -> Response:
            name, limits = request.path_params.get("model"), service.limits
            described = [model.described() for model in service.models]
            own = described[0] if name is None else service.models.named(name).described()
            more = {"models": described} if name is None else {}
            return json_response({
                **own,
                "max_concurrent_requests": limits.max_concurrent_requests,
                "max_batch_tokens": limits.max_batch_tokens,
                "max_batch_requests": None,
                "max_client_batch_size": limits.max_client_batch_size,
                "max_input_characters": limits.max_input_characters,
                "payload_limit": limits.payload_limit,
                "threshold_range": limits.threshold_range,
                "auto_truncate": limits.auto_truncate,
                "tokenization_workers": 1,
                "version": version,
                "sha": None,
                "docker_label": None,
                **more,
            })  # fmt: skip

        return await _answered(service, respond, False)

    return endpoint


def _metrics(service: Service) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(service.metrics.exposition(service.pipeline.waiting), media_type=metrics.CONTENT_TYPE)

    return endpoint


def _constant(response: Response) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return response

    return endpoint


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "no such route: /docs lists them", 405: "this route takes another method: /docs lists them"}
    refusal = RequestError(error.status_code, "Validation", told.get(error.status_code, error.detail))
    return json_response(refusal.content(errors.has_openai_shape(request.scope["path"])), error.status_code, dict(error.headers or {}))
