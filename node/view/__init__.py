"""A street as one node's ledger file shows it: read only, for the page, the report and `--json`."""
