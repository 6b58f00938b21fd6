"""Internal: imports and exports of conversations, and of the tables of other stores."""
