"""A site with the readings of some weather stations."""
