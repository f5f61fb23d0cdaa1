"""The main job on the shipped model, live: full thinking against early exit at the certified risk."""
