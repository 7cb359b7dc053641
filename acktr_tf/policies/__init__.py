"""Networks and the distributions of actions that they parametrize."""
