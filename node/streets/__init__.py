"""Streets: the recorded homes of the presets, and the reader of a user's own CSV file."""
