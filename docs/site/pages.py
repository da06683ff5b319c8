"""What mkdocs does to a page of docs/ before it makes HTML of it."""

import re

import click

from transkimmer_jax import cli

_COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Names files of the repository that are no pages, instead of leading nowhere, and writes out the help of each command."""
    markdown = re.sub(r"\[`?([^\]`]+)`?\]\(\.\./[^)]+\)", r"`\1`", markdown)
    return markdown.replace(_COMMANDS, _commands()) if _COMMANDS in markdown else markdown


def _commands() -> str:
    """A section for each command."""
    program = click.Context(cli.program, info_name="transkimmer", max_content_width=120, terminal_width=120)
    sections = []
    for name in cli.COMMANDS:
        command = cli.program.get_command(program, name)
        assert command is not None
        sections.append(f"## {name}\n\n```text\n{command.get_help(click.Context(command, program, name))}\n```")
    return "\n\n".join(sections)
