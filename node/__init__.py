"""Everything that touches the world: bus, disk, clock, meters, pages, commands."""
