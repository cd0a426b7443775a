"""Attacks of strangers on a running site: what they may cost, and whether any of them gets in."""
