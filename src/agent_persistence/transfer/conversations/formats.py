"""Names the formats that files of conversations come in, other than the one that is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final

LINE: Final = '{"id": ..., "source": ..., "messages": [{"role": ..., "content": ...}]}'
"""The form of a line that is imported."""

_PACKED: Final = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"SQLite format 3": "SQLite",
}
# The keys by which an object of a format is recognised; the first format that has all of them counts.
_KEYS: Final = (
    ("ChatGPT's export", {"mapping"}),
    ("Claude's export", {"chat_messages"}),
    ("the format of LibreChat", {"conversationId"}),
    ("the format of Open WebUI", {"chat", "user_id"}),
    ("the format of Open WebUI", {"history", "models"}),
    ("the format of ShareGPT or FastChat", {"conversations"}),
    ("the format of tau-bench", {"traj"}),
    ("the format of Letta", {"agents"}),
    ("the format of Letta", {"in_context_message_ids"}),
    ("the format of Letta", {"message_ids", "agent_type"}),
    ("the format of LangSmith", {"inputs", "outputs"}),
    ("the format of Alpaca", {"instruction", "output"}),
    ("a preference data set", {"chosen", "rejected"}),
)
_KEY: Final = re.compile(rb'"([A-Za-z_]{1,40})"\s*:')


def format_of(keys: Collection[Any]) -> str | None:
    """Return the name of the format in which an object has these keys; ``None`` if it is not known."""
    return next((name for name, needed in _KEYS if needed <= set(keys)), None)


def begins_another_format(first: bytes, line: bytes) -> bool:
    """Return whether a file may be of another format as a whole.

    Args:
        first: its first line.
        line: its first line that is not blank.
    """
    return _packing_of(first) is not None or _text(line).startswith(b"[") or _text(line).strip() == b"{"


def refusal_of(head: bytes) -> str | None:
    """Return why a file is not JSON Lines as a whole; ``None`` if each of its lines is to be refused by itself.

    Args:
        head: the beginning of a file that ``begins_another_format``.
    """
    packing = _packing_of(head)
    if packing is not None:
        return f"is {packing}, not text in UTF-8; unpack or convert it first"
    text = _text(head)
    line, _, more = text.partition(b"\n")
    if more.strip() and _is_json(line):
        return None
    kind = "a JSON array" if text.startswith(b"[") else "one JSON document over several lines"
    found = format_of([key.decode() for key in _KEY.findall(text)])
    of_format = f" in {found}" if found else ""
    return f"is {kind}{of_format}, not JSON Lines; convert it to one conversation a line: {LINE}"


def _packing_of(head: bytes) -> str | None:
    return next((name for start, name in _PACKED.items() if head.startswith(start)), None)


def _text(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
