"""Frameworks that this package works with: one module and one extra for each."""
