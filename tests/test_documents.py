"""What the documents state is what the committed records say, and what cites them finds what it cites."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CITING = ("transkimmer_jax", "tests", "benchmarks", "configs", "docs")


def test_the_tables_are_those_of_the_records():
    done = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python benchmarks/tables.py {done.stderr}"


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
