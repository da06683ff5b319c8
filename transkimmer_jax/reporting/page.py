"""A report as one HTML file that needs nothing else: no network, no library."""

import dataclasses
import importlib.resources
import json

from transkimmer_jax.reporting.contents import Contents

_PLACE = '"CONTENTS"'
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def page(contents: Contents) -> str:
    """The HTML. Texts stand in it as JSON, and the page shows them as text: nothing of them becomes markup."""
    values = dataclasses.asdict(contents)
    for text in values["texts"]:
        # A character a token: a thousand texts at five budgets are a megabyte so.
        text["depths"] = ["".join(_DIGITS[min(depth, len(_DIGITS) - 1)] for depth in depths) for depths in text["depths"]]
        text["costs"] = [round(cost, 4) for cost in text["costs"]]
    # '<' begins no tag within a script that way, and the two separators are no ends of lines.
    told = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    told = told.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    template = importlib.resources.files("transkimmer_jax.reporting").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace(_PLACE, told, 1)
