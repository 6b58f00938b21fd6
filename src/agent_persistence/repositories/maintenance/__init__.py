"""Rows that stores keep for themselves."""
