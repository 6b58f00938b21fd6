"""Internal: sessions of one owner, and hooks around their commits."""
