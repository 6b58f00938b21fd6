"""Internal: addresses of servers, as settings and providers write them."""
