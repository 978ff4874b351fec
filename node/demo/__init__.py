"""The demonstration: a street of real daemons, one process each, on this machine, for one day.

The runner only starts, watches and stops; every number that it shows comes from the ledgers.
"""
