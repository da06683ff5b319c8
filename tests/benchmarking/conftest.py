"""The scripts of benchmarks/, which are no package, import each other by their names; so do their tests."""

import importlib
import pathlib
import sys

# For the time of their import: there is a serving.py among them, which would hide the package of tests of that name.
before = list(sys.path)
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
for script in ("charts", "curves", "effects", "embedders", "row", "shapes", "tables"):
    importlib.import_module(script)
sys.path[:] = before
