"""Tests of the benchmarks: `make bench-test`."""
