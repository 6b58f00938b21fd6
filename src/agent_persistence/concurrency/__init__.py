"""Internal: asyncio tools that know no database."""
