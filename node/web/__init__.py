"""The page of a street: rendered here from ledgers, kept current by one small script.

Nothing is asked of the internet, nothing is written, and every figure comes from a ledger file.
"""
