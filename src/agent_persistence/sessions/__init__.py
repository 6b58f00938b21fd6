"""A session, its owner, and what happens around its commit."""
