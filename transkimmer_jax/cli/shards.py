"""Many input files and the files of their answers: which there are, and which of them are this process's."""

import contextlib
import dataclasses
import glob
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TextIO

from etils import epath

from transkimmer_jax.checkpoints import files
from transkimmer_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of texts, and the file of the answers to it; '-' are standard input and output.

    overwrite: answer it even if the answers are there.
    """

    input: str
    output: str
    overwrite: bool

    def is_finished(self) -> bool:
        """Whether there is nothing to do. Answers are written whole or not at all, so a file is taken for all of them."""
        return not self.overwrite and epath.Path(self.output).is_file()


def expand(inputs: Sequence[str]) -> list[str]:
    """The files that `inputs` name, sorted, each once. What has `*`, `?` or `[]` in it, and is no file's name, stands for the files that it
    matches (`**`: at any depth).

    Raises:
      ConfigError: a pattern that matches no file.
    """
    found: list[str] = []
    for name in inputs:
        if os.path.exists(name) or glob.escape(name) == name:
            found.append(name)
            continue
        matches = [match for match in glob.glob(name, recursive=True) if not os.path.isdir(match)]
        if not matches:
            raise ConfigError(f"--input {name}: no file matches it")
        found += matches
    return sorted({os.path.abspath(name): name for name in reversed(found)}.values())


def plan(inputs: Sequence[str], folder: str, overwrite: bool) -> list[Shard]:
    """A shard of `folder` for each input, in their order: `<stem>.jsonl`.

    Raises:
      ConfigError: an input whose answers would replace those of another, or another input.
    """
    shards: dict[str, Shard] = {}
    sources = {os.path.realpath(name): name for name in inputs}
    for name in inputs:
        stem = os.path.splitext(os.path.basename(name))[0]
        shard = Shard(name, os.path.join(folder, f"{stem}.jsonl"), overwrite)
        if shard.output in shards:
            raise ConfigError(f"--input {shards[shard.output].input} and {name} would both be answered in {shard.output}: rename one")
        replaced = sources.get(os.path.realpath(shard.output))
        if replaced is not None:
            raise ConfigError(f"--output-dir {folder}: the answers to {name} would replace the input {replaced}: take another folder")
        shards[shard.output] = shard
    return list(shards.values())


@contextlib.contextmanager
def replaced_shard(path: str) -> Iterator[TextIO]:
    """`files.replaced_file` of one process alone.

    Raises:
      ConfigError: another process is answering the same file.
    """
    target = pathlib.Path(path).resolve()  # as `replaced_file` does
    with files.explained(path):
        being_written = not files.is_remote(path) and files.remove_leftovers(target.parent, [target.name])
    if being_written:
        raise ConfigError(f"{path}: another process is answering the same file: give each an index of its own")
    with files.replaced_file(path) as file:
        yield file


def process_of(index: int | None, count: int | None) -> tuple[int, int]:
    """(index, count) of this process among those that share the inputs: as given, else as JAX_PROCESS_ID and JAX_NUM_PROCESSES say
    where both are set, else 0 of 1.

    Raises:
      ConfigError: one of the two without the other, or numbers that cannot be meant.
    """
    index_name, count_name = "--process-id", "--num-processes"
    if (index is None) != (count is None):
        raise ConfigError(f"{index_name} and {count_name} go together: give both or neither")
    if index is None or count is None:
        index_name, count_name = "JAX_PROCESS_ID", "JAX_NUM_PROCESSES"
        if not (os.environ.get(index_name) and os.environ.get(count_name)):
            return 0, 1
        index, count = _integer(index_name), _integer(count_name)
    if count < 1:
        raise ConfigError(f"{count_name} must be at least 1, not {count}")
    if not 0 <= index < count:
        raise ConfigError(f"{index_name} must be at least 0 and less than {count_name}, which is {count}, not {index}")
    return index, count


def _integer(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise ConfigError(f"{name} must be an integer, not {os.environ[name]!r}") from error
