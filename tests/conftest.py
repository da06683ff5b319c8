"""Strict numerics for every test: no silent dtype or rank promotion, and real assets where they are at hand."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest
from vocabulary import write_tokenizer

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What a shell starts in the background ignores Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def unavailable(reason: str):
    """Skip a test whose assets are not at hand; fail it where they must be (CI sets TRANSKIMMER_TEST_REQUIRE_ALL)."""
    (pytest.fail if os.environ.get("TRANSKIMMER_TEST_REQUIRE_ALL") else pytest.skip)(reason)


def real_checkpoint(name: str) -> pathlib.Path:
    """The folder of a real pretrained checkpoint below TRANSKIMMER_TEST_MODELS, or a skip that says how to get it."""
    root = os.environ.get("TRANSKIMMER_TEST_MODELS")
    if not root or not (pathlib.Path(root) / name / "config.json").is_file():
        unavailable(f"needs real weights: set TRANSKIMMER_TEST_MODELS to a folder that holds {name}/")
    assert root
    return pathlib.Path(root) / name


@pytest.fixture(scope="session")
def minilm():
    """Real pretrained BERT weights, 6 layers, H=384."""
    return real_checkpoint("minilm-6l")


@pytest.fixture(scope="session")
def e5_small():
    """Real pretrained BERT weights, 12 layers, H=384, whose tokenizer is a unigram model."""
    return real_checkpoint("e5-small-12l")


@pytest.fixture(scope="session")
def bert_tiny():
    """Real pretrained BERT weights under old parameter names, 2 layers, H=128, with a masked-LM head."""
    return real_checkpoint("bert-tiny")


@pytest.fixture(scope="session")
def mpnet_base():
    """Real pretrained MPNet weights, 12 layers, H=768."""
    return real_checkpoint("mpnet-base")


@pytest.fixture(scope="session")
def libtpu():
    """The compiler for TPUs, which takes no TPU."""
    if importlib.util.find_spec("libtpu") is None:
        unavailable("needs libtpu: pip install -e '.[aot]'")


@pytest.fixture(scope="session")
def sentence_transformers_library():
    """The library, which reads what this package writes."""
    if importlib.util.find_spec("sentence_transformers") is None:
        unavailable("needs sentence-transformers: pip install -e '.[sentence-transformers]'")
    import sentence_transformers

    return sentence_transformers


@pytest.fixture(scope="session")
def mkdocs():
    """What makes pages of docs/."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        unavailable("needs mkdocs: pip install -e '.[docs]'")


@pytest.fixture(scope="session")
def package_index(tmp_path_factory):
    """The Python package index, of which a small package is fetched."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path_factory.mktemp("probe"), "absl-py"]
    if subprocess.run(command, capture_output=True).returncode:
        unavailable("needs the Python package index")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A folder with a WordPiece tokenizer that writes pairs as BERT does."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path: a text as it is, a list as JSON lines."""

    def _write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content), encoding="utf-8")
        return path

    return _write


@pytest.fixture
def bucket(monkeypatch):
    """The address of a folder in a bucket, which this process alone has, and in its memory."""
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        store, pseudo_dirs, cachable = {}, [""], False

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(str(path).removeprefix("gs://"))

    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: Bucket())
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    return "gs://bucket/folder"


@pytest.fixture
def disk():
    """Gives a file system of its own the size that is asked for, e.g. '700k', and returns its folder.

    The folder is none of pytest's: pytest fails at the end of a run when it cannot delete a folder of an earlier run,
    and a killed run leaves its file system mounted.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="transkimmer-test-disk-"))

    def resized(size):
        options = f"remount,size={size}" if folder.is_mount() else f"size={size}"
        if (
            shutil.which("mount") is None
            or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode
        ):
            pytest.skip("may not mount a file system")
        return folder

    yield resized
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
    folder.rmdir()


@pytest.fixture(scope="session")
def program_cache(tmp_path_factory):
    """A folder of compiled programs: runs with one config share theirs, also with the processes that a test starts."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def quickly_built_programs(program_cache):
    """What the package jits for itself is compiled with little optimisation, and once."""
    from jax.experimental.compilation_cache import compilation_cache
    from training import quick

    settings = quick.settings(program_cache)
    before = {name: jax.config.values[name] for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick.quick(jax.jit))
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
