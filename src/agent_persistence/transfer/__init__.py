"""Imports and exports of conversations, and imports from the tables of other stores."""
