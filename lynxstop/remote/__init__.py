"""Models behind an HTTP server: what their streams show, how an exit is decided there and carried out."""
