"""Observation and action spaces: encoding for networks, and descriptions as JSON."""
