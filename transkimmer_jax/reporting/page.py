"""A report as one HTML file that needs nothing else: no network, no library."""

import dataclasses
import importlib.resources
import json
from typing import Any

from transkimmer_jax.reporting.contents import Contents
from transkimmer_jax.reporting.runs import Runs

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def page(contents: Contents) -> str:
    """The HTML of texts. They stand in it as JSON, and the page shows them as text: nothing of them becomes markup."""
    values = dataclasses.asdict(contents)
    for text in values["texts"]:
        # A character a token: a thousand texts at five budgets are a megabyte so.
        text["depths"] = ["".join(_DIGITS[min(depth, len(_DIGITS) - 1)] for depth in depths) for depths in text["depths"]]
        text["costs"] = [round(cost, 4) for cost in text["costs"]]
    return _filled("report.html", values)


def run_page(runs: Runs) -> str:
    """The HTML of a training run, likewise."""
    return _filled("run.html", dataclasses.asdict(runs))


def _filled(template: str, values: dict[str, Any]) -> str:
    """A template of this folder, with the style and the script that all share, and what it shows."""
    told = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # '<' begins no tag within a script that way, and the two separators are no ends of lines.
    told = told.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    folder = importlib.resources.files("transkimmer_jax.reporting")
    html = folder.joinpath(template).read_text(encoding="utf-8")
    for place, name in (("/* STYLE */\n", "page.css"), ("/* SCRIPT */\n", "page.js")):
        html = html.replace(place, folder.joinpath(name).read_text(encoding="utf-8"), 1)
    return html.replace('"CONTENTS"', told, 1)
