"""Blocks of the Fisher matrix, one per layer, and the registry of layer types."""
