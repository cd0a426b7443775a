"""Attacks on a running site, class by class; the run ends with a table of them."""
