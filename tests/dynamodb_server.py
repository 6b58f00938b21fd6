"""A server that speaks DynamoDB's protocol, in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

REGION = "eu-central-1"

for name in ("aiobotocore", "botocore", "werkzeug"):  # a dozen records a request, which a run at DEBUG would pay for
    logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def dynamodb_server() -> Iterator[str]:
    """Start one; give its address."""
    # One request at a time: moto takes no locks, and its transactions would not be any.
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    serving = Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
