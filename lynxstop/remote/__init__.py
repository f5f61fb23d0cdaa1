"""Early exit for models served over HTTP: read the stream, decide on an exit, and carry it out."""
