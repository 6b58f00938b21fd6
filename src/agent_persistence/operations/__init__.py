"""Internal: operations, each one call and one transaction: opened, shared, repeated, committed."""
