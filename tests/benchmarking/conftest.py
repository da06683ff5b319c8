"""The scripts of benchmarks/, which are no package, import each other by their names; so do their tests."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
