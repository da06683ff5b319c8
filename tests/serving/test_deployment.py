"""The files of deploy/, as text: what they name is there, and their commands are commands."""

import argparse
import json
import pathlib
import re
import shlex
import tomllib

import pytest
import yaml

from transkimmer_jax import cli
from transkimmer_jax.serving.routes import ROUTES

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
GETS = {"/health", "/metrics"}


def instructions():
    """(instruction, rest) of the Dockerfile, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]


def values(name):
    return [rest for instruction, rest in instructions() if instruction == name]


def load(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def parsed(arguments):
    """What the program makes of a command line."""
    assert arguments[0] == "serve"
    context = cli.program.get_command(None, "serve").make_context("serve", list(arguments[1:]))
    return argparse.Namespace(**context.params)


def command(*more):
    (entry,) = map(json.loads, values("ENTRYPOINT"))
    assert entry[0] == "transkimmer"
    return parsed([*entry[1:], *more])


def test_the_image_is_built_of_what_there_is():
    """Files, an extra, and images with a version."""
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for rest in values("COPY"):
        *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
        if "--from" not in rest:
            assert all((ROOT / source).exists() and f"!{source}" in ignored for source in sources)
    assert {"pyproject.toml", "README.md", "LICENSE", "transkimmer_jax"} <= {word for rest in values("COPY") for word in rest.split()}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any("'.[serve]'" in rest for rest in values("RUN")) and "serve" in extras
    assert all(re.match(r"python:3\.\d+-slim( AS \w+)?$", rest) for rest in values("FROM"))
    assert set(dict(instructions())) <= {
        "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip


def test_the_image_runs_the_server():
    """On the port that it shows, asked for its health where that is told, not as root, ended by what drains it."""
    (default,) = map(json.loads, values("CMD"))
    args = command(*default)
    assert args.host == "0.0.0.0" and [str(args.port)] == values("EXPOSE") and args.model == ("/models/model",)
    (health,) = values("HEALTHCHECK")
    assert f"http://127.0.0.1:{args.port}/health" in health and json.loads(health.partition("CMD ")[2])[0] == "python"
    assert values("USER") == ["10001"] and values("STOPSIGNAL") == ["SIGTERM"]
    names = [instruction for instruction, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_compose():
    """Its command is one of the server; loopback alone; time to drain."""
    services = load("compose.yaml")["services"]
    server = services["server"]
    args = command(*server["command"])
    assert (ROOT / server["build"]["dockerfile"]).is_file() and server["build"]["context"] == "."
    (mounted,) = server["volumes"]
    assert args.model == (f"model={mounted.rsplit(':', 2)[1]}",) and mounted.endswith(":ro")
    assert float(server["stop_grace_period"].removesuffix("s")) > args.drain_seconds
    for service in services.values():
        assert all(published.startswith("127.0.0.1:") for published in service["ports"])
    assert server["ports"] == [f"127.0.0.1:{args.port}:{args.port}"]
    assert server["environment"] == ["TRANSKIMMER_API_KEY"] and server["read_only"] is True and server["cap_drop"] == ["ALL"]
    assert re.fullmatch(r"prom/prometheus:v\d+\.\d+\.\d+", services["prometheus"]["image"])
    assert services["prometheus"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    used = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"] if volume[0] not in "./$"}
    assert used == set(load("compose.yaml")["volumes"])


def test_prometheus_reads_the_server():
    """Of that name, at that port and path."""
    (job,) = load("prometheus.yaml")["scrape_configs"]
    assert job["metrics_path"] in GETS and job["static_configs"] == [{"targets": [f"server:{command('--model', 'x').port}"]}]
    mounted = [volume for volume in load("compose.yaml")["services"]["prometheus"]["volumes"] if "prometheus.yml" in volume]
    assert (ROOT / mounted[0].partition(":")[0]).is_file()


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_page_lists_every_route_and_option(page):
    """And its commands are commands."""
    for path in [path for route in ROUTES for path in route.paths] + ["/info", "/health", "/metrics", "/docs"]:
        assert f"`{path}`" in page, path
    for option in cli.program.get_command(None, "serve").params:
        assert any(f"`{flag}" in page or f" {flag}" in page for flag in option.opts), option.opts
    commands = [line for line in page.splitlines() if line.startswith("transkimmer ")]
    assert len(commands) >= 3
    for line in commands:
        parsed(shlex.split(line.partition("#")[0])[1:])
    assert len(page.splitlines()) < 200
