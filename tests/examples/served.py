"""An example's server, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(script: Path, folder: Path, **environment: str) -> Iterator[str]:
    """Start the example on a free port; give its address."""
    process = subprocess.Popen(
        [sys.executable, script, "--port", "0", "--no-access-log"],
        cwd=folder,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        while not (running := re.search(r"Uvicorn running on (http://\S+)", said)):
            line = process.stderr.readline()
            assert line, f"it ended:\n{said}"
            said += line
        yield running[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
