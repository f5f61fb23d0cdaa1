"""How kinds of servers speak, one file each."""
