"""Training loop, rollouts, running normalization and scoring."""
