"""The quilt's task as the real application adds it: what is measured is the memory that it takes waiting."""


def send_color(row: int, column: int, session_id: str, *, delay_ms: int = 0) -> None:
    """The name and the arguments of the real one, which is all that a waiting task holds."""
