"""Mechanisms, contracts and money of the street's market.

Pure, integer and deterministic: equal inputs give equal bytes on every machine.  It knows no
replicas, no sockets and no clock; time is an argument.
"""
