"""Our own side of the benchmarks: the product as it is shipped, measured from outside."""
