"""The documents of the project, taken apart, and done as a reader would do what they say.

- A ```` ```python ```` block is run, with ``await`` at its top level. Blocks of a document share their names.
- A block with ``title="..."`` is saved under that name instead.
- In a ```` ```console ```` block the lines after ``$`` are run, if the command is one of ``COMMANDS``; what stands
  below is what they print. A ```` ```text ```` block says the same of the Python block before it. ``...`` stands for
  anything.
- A block inside an HTML comment is run as well; it prepares what readers need not see. ``<!-- not run: reason -->``
  keeps the block after it from being run.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from agent_persistence.embedded import postgres_binary

ROOT = Path(__file__).parents[2]
COMMANDS = {"agent-persistence", "alembic", "pg_dump", "pg_restore", "psql", "pytest", "python", "until"}

_BLOCK = re.compile(
    r'(?P<skip><!-- not run: .+? -->\n+)?^```(?P<language>\w+)(?: title="(?P<title>.+?)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    line: int
    language: str
    title: str | None
    text: str
    skipped: bool


def documents() -> list[Path]:
    """Every document that users and contributors read."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(document: Path) -> list[Block]:
    """The blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            line=text.count("\n", 0, found.start("text")),
            language=found["language"],
            title=found["title"],
            text=found["text"],
            skipped=found["skip"] is not None,
        )
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """Does what a document says, in a folder of its own."""

    def __init__(self, document: Path, folder: Path) -> None:
        self._folder = folder
        self._name = document.name
        self._module = ModuleType("document")
        self._printed = ""

    def read(self, found: list[Block]) -> None:
        """Go through the document from top to bottom."""
        sys.modules["document"] = self._module  # SQLAlchemy looks up the annotations of a class in its module
        environment = {**os.environ}
        try:
            with asyncio.Runner() as runner:
                for block in found:
                    if not block.skipped:
                        self._do(block, runner)
        finally:
            del sys.modules["document"]
            os.environ.clear()
            os.environ.update(environment)  # a document may set variables for the commands that follow

    def _do(self, block: Block, runner: asyncio.Runner) -> None:
        if block.title:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._printed = self._run(block, runner)
        elif block.language == "text":
            self._compare(block, self._printed, block.text)
        elif block.language == "console":
            for command, expected in _commands(block.text):
                self._compare(block, self._shell(block, command), expected)

    def _run(self, block: Block, runner: asyncio.Runner) -> str:
        source = "\n" * block.line + block.text  # a traceback then names the line of the document
        code = compile(source, self._name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = eval(code, self._module.__dict__)  # noqa: S307  # the documents are ours
            if inspect.CO_COROUTINE & code.co_flags:
                runner.run(result)
        return printed.getvalue()

    def _shell(self, block: Block, command: str) -> str:
        clients = postgres_binary("psql").parent  # those of the server's version
        path = os.pathsep.join([str(Path(sys.executable).parent), str(clients), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{self._name}:{block.line}: {command}\n{done.stdout}"
        return done.stdout

    def _compare(self, block: Block, printed: str, expected: str) -> None:
        alike = not expected or doctest.OutputChecker().check_output(expected, printed, _ALIKE)
        assert alike, f"{self._name}:{block.line} says\n{expected}\nand got\n{printed}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        if re.sub(r"^(\w+=\S* )*", "", command).split()[0] in COMMANDS:
            yield command, output
