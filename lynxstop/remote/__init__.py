"""Models behind somebody's HTTP server: what its streams show, how an exit is decided there and carried out."""
