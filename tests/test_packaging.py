"""What an installation brings: the core computes answers, an extra trains, and where that is missing an error says so in one line."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request

import jax
import pytest
from cli.saved import save_model

from transkimmer_jax import cli, extras
from transkimmer_jax.errors import ConfigError, InferenceError

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Of the extra `train`, those that flax brings into the core.
BROUGHT_BY_FLAX = {"optax", "orbax-checkpoint"}
TEXTS = ["good film", "the bad films is a b c", "", "a good film is good"]


def package(requirement):
    return re.match(r"[\w-]+", requirement)[0]


def modules_of(requirements):
    """What the packages are imported as."""
    wanted = {package(requirement).lower().replace("_", "-") for requirement in requirements}
    provided = importlib.metadata.packages_distributions().items()
    return sorted(module for module, names in provided if wanted & {name.lower().replace("_", "-") for name in names})


def test_requirements_are_the_core_and_the_extra_that_trains():
    lines = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["train"]
    asked_for = {"jax", "flax", "optax", "orbax-checkpoint", "transformers", "tensorflow-datasets", "chex"}
    assert asked_for <= {package(line) for line in lines}


def test_a_missing_package_is_an_error_of_one_line(monkeypatch):
    """It names what needs the package, the package, and the extra. Other failures of imports stay what they are."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    wanted = r"^scoring needs sklearn, which is not installed: pip install 'transkimmer_jax\[train\]'$"
    with pytest.raises(ConfigError, match=wanted), extras.needed("train", "scoring"):
        import sklearn.metrics
    with pytest.raises(InferenceError), extras.needed("train", "scoring", InferenceError):
        import sklearn.metrics  # noqa: F401
    with pytest.raises(ModuleNotFoundError), extras.needed("train", "scoring"):
        import transkimmer_jax.no_such_module  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), extras.needed("train", "scoring"):
        from json import no_such_name  # noqa: F401


def test_errors_name_extras_that_exist():
    named = {
        extra
        for folder in ("transkimmer_jax", "docs")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".md")
        for text in [path.read_text(encoding="utf-8")]
        for extras_of_one in re.findall(r"transkimmer_jax\[([a-z,-]+)\]", text) + re.findall(r"extras\.needed\(\"([a-z-]+)\"", text)
        for extra in extras_of_one.split(",")
    }
    assert {"train", "openvino", "evaluation"} <= named <= PROJECT["optional-dependencies"].keys()


@pytest.fixture(scope="module")
def model(tokenizer_folder, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tokenizer_folder, label_names=("negative", "positive"))


def commands(model, texts, folder):
    """What the core does, by name."""
    return {
        "help": ["--help"],
        "predict": ["predict", "--model", model, "--input", texts, "--output", folder / "answers.jsonl", "--quiet"],
        "report": ["report", "--model", model, "--input", texts, "--output", folder / "report.html"],
        "graph": ["export", "--format", "onnx", "--model", model, "--output", folder / "graph", "--precision", "int8"],
        "programs": ["export", "--model", model, "--output", folder / "programs", "--platforms", "cpu"],
    }


def in_need(model, texts):
    """Commands that need the extra `train`."""
    return [
        ["evaluate", "--model", model, "--data", texts],
        ["evaluate", "--model", model, "--data", texts, "--curve", "sweep"],
        ["train", "--config", ROOT / "configs" / "files.py", f"--config.data.train_file={texts}"],
        ["distil", "--teacher", model, "--texts", texts, "--output", "distilled"],
        ["report", "--model", model, "--task", "glue/sst2", "--output", "report.html"],
    ]


def test_the_core_needs_none_of_the_extra(model, write, tmp_path):
    """Its commands run where the extra's packages are not to be had; those that need one say so."""
    blocked = modules_of(
        requirement for requirement in PROJECT["optional-dependencies"]["train"] if package(requirement) not in BROUGHT_BY_FLAX
    )
    assert {"chex", "grain", "matplotlib", "sklearn", "tensorboardX", "tensorflow_datasets"} <= set(blocked)
    texts = write("texts.txt", "\n".join(TEXTS))
    labelled = write("labelled.jsonl", [{"text": text, "label": "positive"} for text in TEXTS])
    code = f"""
import contextlib, sys
sys.modules.update(dict.fromkeys({blocked!r}))
from transkimmer_jax import cli, console
for arguments in {[list(map(str, arguments)) for arguments in commands(model, texts, tmp_path).values()]!r}:
    with contextlib.suppress(SystemExit) if "--help" in arguments else contextlib.nullcontext():
        assert console.run(cli.main, arguments) == 0, arguments
print("----", file=sys.stderr)
print([console.run(cli.main, arguments) for arguments in {[list(map(str, arguments)) for arguments in in_need(model, labelled)]!r}])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[2, 2, 2, 2, 2]"
    said = done.stderr.partition("----\n")[2].splitlines()
    assert len(said) == 5, said
    for line in said:
        assert re.fullmatch(r"error: \S+ needs \w+, which is not installed: pip install 'transkimmer_jax\[train\]'", line)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_in_an_environment_of_its_own(package_index, model, write, tmp_path):
    """Built, installed and run where neither the source tree nor the extras are; it answers as this process does."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "transkimmer_jax", source / "transkimmer_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    texts = write("texts.txt", "\n".join(TEXTS))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command, status=0):
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", source)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    shutil.rmtree(source)
    run(*pip, "install", wheel)
    installed = {entry["name"].lower().replace("_", "-") for entry in json.loads(run(*pip, "list", "--format", "json").stdout)}
    assert {"transkimmer-jax", "jax", "flax", "onnxruntime"} <= installed
    assert not {"chex", "grain", "matplotlib", "scikit-learn", "tensorboardx", "tensorflow-datasets"} & installed

    program = tmp_path / "venv" / "bin" / "transkimmer"
    for arguments in commands(model, texts, tmp_path).values():
        run(program, *arguments)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    with jax.numpy_dtype_promotion("standard"):
        cli.main(["predict", "--model", str(model), "--input", str(texts), "--output", str(tmp_path / "here.jsonl"), "--quiet"])
    there, here = (list(map(json.loads, (tmp_path / name).read_text().splitlines())) for name in ("answers.jsonl", "here.jsonl"))
    assert len(here) == len(TEXTS) and [answer["label"] for answer in there] == [answer["label"] for answer in here]
    assert [answer["kept"] for answer in there] == pytest.approx([answer["kept"] for answer in here])
    said = run(program, "evaluate", "--model", model, "--data", texts, status=2).stderr
    assert said == "error: scoring needs sklearn, which is not installed: pip install 'transkimmer_jax[train]'\n"

    said = run(program, "serve", "--model", model, status=2).stderr
    assert re.fullmatch(r"error: serving needs \w+, which is not installed: pip install 'transkimmer_jax\[serve\]'\n", said)
    run(*pip, "install", f"{wheel}[serve]")
    command = [str(program), "serve", "--model", str(model), "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(filter(None, (re.search(r"http://\S+", line) for line in server.stderr)))[0]
            body = json.dumps({"inputs": TEXTS[0]}).encode()
            request = urllib.request.Request(f"{address}/predict", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                served = json.load(response)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    assert {entry["label"]: entry["score"] for entry in served} == pytest.approx(here[0]["probabilities"], abs=1e-4)
