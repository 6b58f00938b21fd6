"""The table ``threads``."""
