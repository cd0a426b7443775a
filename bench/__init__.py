"""Benchmarks: how fast we are, beside what a user would pick instead."""
