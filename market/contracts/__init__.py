"""The contracts of the market, one noun per file: state, operations, refusals."""
