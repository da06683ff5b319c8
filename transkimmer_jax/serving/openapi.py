"""What the server says of itself: an OpenAPI document, and a page for people that needs no other server."""

import html
import json
from collections.abc import Iterable
from typing import Any

import pydantic

from transkimmer_jax.serving.routes import Route

TITLE = "transkimmer serve"
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{overflow:auto;background:#8882;padding:.6rem}h2{margin:2rem 0 0;font-size:1.1rem}"
)
_REFUSALS = {
    "400": "no JSON, or no text", "401": "no API key", "404": "no such model", "413": "too large, or too many texts",
    "422": "a body that cannot be meant, or a text that is too long", "424": "no model for this route, or a failure",
    "429": "overloaded: try again", "503": "the engine is gone, or the server stops",
}  # fmt: skip
_GETS = {
    "/info": "The models and the limits",
    "/health": "200 while the server answers, 503 otherwise; also / and /ping",
    "/metrics": "Numbers for Prometheus",
    "/openapi.json": "This document",
}


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    routes = list(routes)
    reference = "#/components/schemas/{model}"
    keys, definitions = pydantic.TypeAdapter.json_schemas(
        [(path, mode, pydantic.TypeAdapter(schema)) for path, mode, schema in _schemas(routes)], ref_template=reference
    )
    paths: dict[str, Any] = {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "OK"}}}} for path, summary in _GETS.items()
    }
    for route in routes:
        for path in route.paths:
            name = route.paths[0]
            paths[path] = {
                "post": {
                    "summary": route.summary,
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": keys[(name, "validation")], "example": route.example}},
                    },
                    "responses": {
                        "200": {"description": "OK", "content": {"application/json": {"schema": keys[(name, "serialization")]}}},
                        **{status: {"description": meaning} for status, meaning in _REFUSALS.items()},
                    },
                }
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _schemas(routes: Iterable[Route]) -> Iterable[tuple[str, Any, Any]]:
    for route in routes:
        yield route.paths[0], "validation", route.body
        yield route.paths[0], "serialization", route.answer


def page(routes: Iterable[Route], version: str) -> str:
    """The same as a page, with a command for every route."""
    rows = []
    for route in routes:
        command = f"curl localhost:8080{route.paths[0]} -H 'content-type: application/json' -d '{json.dumps(route.example)}'"
        names = ", ".join(f"<code>POST {path}</code>" for path in route.paths)
        rows.append(f"<h2>{names}</h2><p>{html.escape(route.summary)}.</p><pre>{html.escape(command)}</pre><p>{_fields(route.body)}</p>")
    rows += [f"<h2><code>GET {path}</code></h2><p>{html.escape(summary)}.</p>" for path, summary in _GETS.items()]
    refusals = "".join(f"<li>{status}: {html.escape(meaning)}</li>" for status, meaning in _REFUSALS.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{TITLE}</title>"
        f"<style>{_STYLE}</style><h1>{TITLE} {html.escape(version)}</h1>"
        "<p>The same for programs: <a href=openapi.json>openapi.json</a>. With several models a body names one in <code>model</code>, or"
        f" the path does: <code>/models/NAME/predict</code>.</p>{''.join(rows)}<h2>Refusals</h2><ul>{refusals}</ul></html>"
    )


def _fields(body: type[pydantic.BaseModel]) -> str:
    fields = [
        f"<code>{name}</code>" if field.is_required() else f"<code>{name}</code> (optional)" for name, field in body.model_fields.items()
    ]
    return "Fields: " + ", ".join(fields)
