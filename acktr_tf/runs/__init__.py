"""Files of a run: directory, checkpoints, logs and exported policies."""
