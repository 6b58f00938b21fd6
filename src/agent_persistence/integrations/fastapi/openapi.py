"""The schemas of error responses in OpenAPI."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fastapi.openapi.utils import validation_error_definition

MEDIA_TYPE: Final = "application/problem+json"
_STRING: Final = {"type": "string"}
# Inline in each response at first: FastAPI puts a model of ``responses`` under the media type of the endpoint, which is
# application/json.
PROBLEM: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "title": _STRING,
        "status": {"type": "integer"},
        "detail": _STRING,
        "error": {"type": "string", "description": "the name of the error's class"},
    },
    "required": ["title", "status", "detail", "error"],
}
REFUSED_BY_FASTAPI: Final[Mapping[str, Any]] = {
    "title": "HTTPValidationError",
    "type": "object",
    "properties": {"detail": {"type": "array", "items": validation_error_definition}},
}


def with_component(describe: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return an application's ``openapi`` in which all responses refer to one schema of a problem.

    Inline, a generator of clients makes a class for each response. If the application has another schema of this name,
    they stay inline.
    """

    def described() -> dict[str, Any]:
        document = describe()
        found = [content for content in _contents(document) if content.get("schema") == PROBLEM]
        if found:
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            if schemas.setdefault(PROBLEM["title"], dict(PROBLEM)) == PROBLEM:
                for content in found:
                    content["schema"] = {"$ref": f"#/components/schemas/{PROBLEM['title']}"}
        return document

    return described


def _contents(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the responses of all operations hold as problems."""
    for path in document.get("paths", {}).values():
        for operation in path.values():
            responses = operation.get("responses", {}) if isinstance(operation, dict) else {}
            for response in responses.values():
                if MEDIA_TYPE in response.get("content", {}):
                    yield response["content"][MEDIA_TYPE]
