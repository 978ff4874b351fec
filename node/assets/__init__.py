"""Simulated homes: their forecasts, batteries and deferrable loads, and what they plan with them.

Pure and integer, without clock or bus.  Everything here is a simulation and says so on the page; a
real home's meter, inverter and charger stand behind the same plans and deliveries.
"""
