"""`python -m lynxstop.cli`."""

from lynxstop.cli import main

main()
