"""The quilt: each square is a task."""
