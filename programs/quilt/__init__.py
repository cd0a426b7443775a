"""The quilt, in which each square is a task."""
