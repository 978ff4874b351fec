"""Mechanisms: how the trades of a slot are derived; one file each, chosen by name."""
