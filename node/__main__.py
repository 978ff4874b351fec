"""``python -m node`` is the command line."""

from node.cli import main

main()
