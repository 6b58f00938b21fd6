"""Anthropic's API for the CLI that comes with the SDK: replies are counted, requests are kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeAPI(ThreadingHTTPServer):
    """Answers "Reply 1.", "Reply 2." and so on.

    Attributes:
        requests: the messages of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[list[dict[str, Any]]] = []


@contextmanager
def fake_api(folder: Path) -> Iterator[tuple[FakeAPI, dict[str, str]]]:
    """Serve the API; yield it and the environment in which the CLI uses it, with its files in a folder."""
    with FakeAPI() as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        try:
            yield (
                api,
                {
                    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api.server_port}",
                    "ANTHROPIC_API_KEY": "none",
                    "CLAUDE_CONFIG_DIR": str(folder),
                    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                    "DISABLE_AUTOUPDATER": "1",
                },
            )
        finally:
            api.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: FakeAPI
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._send(b"", "text/plain")

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        messages = request.get("messages", [])
        if not request.get("stream"):
            self._send(b'{"input_tokens": 1}', "application/json")
            return
        self.server.requests.append(messages)
        text = f"Reply {sum(message['role'] == 'assistant' for message in messages) + 1}."
        events = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _stream(text))
        self._send(events.encode(), "text/event-stream")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _stream(text: str) -> Iterator[dict[str, Any]]:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_fake", "type": "message", "role": "assistant", "model": "fake", "content": []}
    yield {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}
