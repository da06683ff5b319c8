"""What mkdocs does to a page of docs/ before it makes HTML of it."""

import re

from transkimmer_jax import cli

_COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Names files of the repository that are no pages, instead of leading nowhere, and writes out the help of each command."""
    markdown = re.sub(r"\[`?([^\]`]+)`?\]\(\.\./[^)]+\)", r"`\1`", markdown)
    return markdown.replace(_COMMANDS, _commands()) if _COMMANDS in markdown else markdown


def _commands() -> str:
    """A section for each command."""
    _, commands = cli.parsers()
    return "\n\n".join(f"## {name}\n\n```text\n{parser.format_help()}```" for name, parser in commands.items())
