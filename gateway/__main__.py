"""`python -m gateway`: the `understudy` command."""

from gateway.cli import main

main()
