"""The table ``messages``."""
