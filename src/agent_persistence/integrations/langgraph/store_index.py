"""LangGraph's ``index`` configuration of a store: which texts of an item are embedded, and by what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from langgraph.store.base import IndexConfig, ensure_embeddings, get_text_at_path

from agent_persistence.errors import InvalidInputError
from agent_persistence.validation import check_limit

_KNOWN: Final = {"dims", "embed", "fields"}
_MAX_DIMS: Final = 16_000

Vectors = Mapping[str, Sequence[float]]


class Index:
    """Finds and embeds the texts of items.

    Raises:
        InvalidInputError: the configuration has other keys than ``dims``, ``embed`` and ``fields``, or lacks one of the
            first two.
    """

    def __init__(self, config: IndexConfig) -> None:
        if unknown := set(config) - _KNOWN:
            raise InvalidInputError("index", f"has unknown keys: {', '.join(sorted(unknown))}")
        embed = config.get("embed")
        if embed is None:
            raise InvalidInputError("index", "lacks embed, which makes vectors of texts")
        self._dims = check_limit(config.get("dims"), "index.dims", _MAX_DIMS)
        self._fields = config.get("fields") or ["$"]
        self.embeddings = ensure_embeddings(embed)

    def texts(self, value: Mapping[str, Any], fields: Sequence[str] | None) -> list[str]:
        """Return the texts of a value that are embedded.

        Args:
            value: the item's.
            fields: paths, instead of those of the configuration.
        """
        return [text for path in (self._fields if fields is None else fields) for text in get_text_at_path(value, path)]

    async def of_documents(self, texts: Iterable[str]) -> Vectors:
        """Return vectors by text. Each text is embedded once.

        Raises:
            InvalidInputError: the embedding function returns vectors of another number or size.
        """
        wanted = list(dict.fromkeys(texts))
        return self._checked(wanted, await self.embeddings.aembed_documents(wanted) if wanted else [])

    async def of_queries(self, queries: Iterable[str]) -> Vectors:
        """Return vectors by query. Each query is embedded once.

        Raises:
            InvalidInputError: the embedding function returns vectors of another size.
        """
        wanted = list(dict.fromkeys(queries))
        return self._checked(wanted, await asyncio.gather(*map(self.embeddings.aembed_query, wanted)))

    def _checked(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Vectors:
        if len(texts) != len(vectors):
            raise InvalidInputError("index.embed", f"returned {len(vectors)} vectors for {len(texts)} texts")
        for vector in vectors:
            if len(vector) != self._dims:
                raise InvalidInputError("index.embed", f"returned {len(vector)} numbers instead of {self._dims}")
        return dict(zip(texts, vectors, strict=True))
