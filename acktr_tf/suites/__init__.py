"""Benchmarks over tasks and seeds: suite files, jobs and reports."""
