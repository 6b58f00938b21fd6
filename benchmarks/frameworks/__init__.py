"""w14: the everyday calls of frameworks on their stores and sessions."""
