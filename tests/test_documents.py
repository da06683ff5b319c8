"""What the documents state is what the committed records say."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_tables_are_those_of_the_records():
    done = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python benchmarks/tables.py {done.stderr}"


def test_every_table_has_its_commands():
    """Tables of contenders and of parity come without, as those of the same records' savings before them have them."""
    seen = 0
    for document in (ROOT / "docs").glob("*.md"):
        with_commands = set()
        for view, files in re.findall("<!-- table: (\\w+) (.*?) -->", document.read_text(encoding="utf-8")):
            if view == "saving":
                with_commands.add(files)
            elif view in ("contenders", "parity"):
                seen += 1
                assert files in with_commands, f"{document.name}: {view} {files}"
    assert seen >= 3
