"""How values become what is stored, and back; no I/O."""
