"""Private brokers for the demo, the tests and a community on one machine."""
