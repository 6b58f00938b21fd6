"""Tools for asyncio that know no database."""
