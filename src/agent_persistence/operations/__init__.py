"""One call, one transaction: opened, shared, repeated, committed."""
