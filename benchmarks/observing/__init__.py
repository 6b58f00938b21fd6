"""This package with more and more of its metrics and spans."""
