"""Settings of a run, by component."""
