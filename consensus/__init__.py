"""PBFT as a pure state machine, and the chain that it makes.

It knows no energy, no sockets and no clock: messages, ticks and opaque operations in, effects out.
"""
