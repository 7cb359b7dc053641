"""K-FAC against tuned first-order optimizers on supervised problems; see run.py."""
