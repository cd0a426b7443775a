"""Mutation testing: small faults are put into the product, and the fast tests must notice."""
