"""What the documents state is what the committed records say, and what cites them finds what it cites."""

import dataclasses
import html
import os
import pathlib
import re
import subprocess
import sys

import pytest

import transkimmer_jax
from transkimmer_jax import cli
from transkimmer_jax.config import Config

ROOT = pathlib.Path(__file__).resolve().parent.parent
CITING = ("transkimmer_jax", "tests", "tools", "configs", "docs")


def test_the_tables_are_those_of_the_records():
    done = subprocess.run([sys.executable, "-m", "tools.tables", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python -m tools.tables {done.stderr}"


@pytest.fixture(scope="module")
def site(mkdocs, tmp_path_factory):
    """The pages as HTML, by mkdocs, which fails where it has a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(path):
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))


def test_the_site_has_every_page_and_its_links_lead_somewhere(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")} - {pathlib.Path("index")}
    assert len(pages) >= 10 and all((site / page / "index.html").is_file() for page in pages)
    for page in site.rglob("index.html"):
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", link):
                target = page.parent / link
                assert target.is_file() or (target / "index.html").is_file(), f"{page.relative_to(site)}: {link}"


def test_the_reference_documents_what_is_public(site):
    """Each name of the package's face; each field of a config, with its sentence; each command, with its flags."""
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("index.html"))
    identifiers = set(re.findall(r'id="(transkimmer_jax[\w.]*)"', reference))
    assert {name.rpartition(".")[2] for name in identifiers} >= {*transkimmer_jax.__all__, "train_and_evaluate", "train_recipe", "Config"}
    configuration = " ".join(text_of(site / "api" / "configuration" / "index.html").split())
    for section in vars(Config()).values():
        for field in dataclasses.fields(section):
            assert f"transkimmer_jax.config.{type(section).__name__}.{field.name}" in identifiers
    assert "budget: share of the unpadded dense model's FLOPs" in configuration and "Annotated[" not in configuration
    commands = " ".join(text_of(site / "commands" / "index.html").split())
    for name in cli.COMMANDS:
        command = cli.program.get_command(None, name)
        assert f"Usage: transkimmer {name}" in commands and all(flag in commands for option in command.params for flag in option.opts)


def cited_sections():
    """(file, section) of everything in code, tests and documents that names docs/design.md; the section is None where none is named."""
    for path in sorted(path for folder in CITING for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")):
        text = re.sub(r"\s*\n[ #]*", " ", path.read_text(encoding="utf-8"))
        if path.samefile(__file__):
            continue
        for match in re.finditer(r"docs/design\.md(?:, sections? ((?:[\d.]*\d(?:, | and | to )?)+))?", text):
            for section in re.findall(r"\d[\d.]*\d|\d", match[1] or "") or [None]:
                yield path.relative_to(ROOT), section


def test_citations_of_the_design_name_sections_that_exist():
    headings = re.findall(r"^##+ (\d+(?:\.\d+)*)\.? ", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(set(headings)) > 10
    cited = list(cited_sections())
    assert len(cited) >= 20 and [citation for citation in cited if citation[1] not in headings] == []
