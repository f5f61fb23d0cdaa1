"""Research at the edge of lynxstop: the shipped model's training, cue search, exports, re-splits."""
