"""The command line; every error is one line on stderr with the remedy."""

import sys
from pathlib import Path


def main() -> None:
    from node.config import load_config
    from node.daemon import run_daemon
    sys.exit(run_daemon(load_config(Path(sys.argv[3]))))
