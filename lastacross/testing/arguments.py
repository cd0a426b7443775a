"""What the numbers of a test's calls may be: a slip there would run nothing, and look like success."""


def check_seconds(name: str, value: object) -> None:
    """Raise unless this is None or a length of time.

    Raises:
        TypeError: it is no number.
        ValueError: it is below zero, or not a number (NaN).
    """
    if value is None:
        return
    takes = f"{name} takes seconds from 0, or None, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(takes)
    if not value >= 0:
        raise ValueError(takes)


def check_count(name: str, value: object, *, none_means: str = "") -> None:
    """Raise unless this is a whole number from 0, or None where that means something.

    Raises:
        TypeError: it is neither.
        ValueError: it is below zero.
    """
    if value is None and none_means:
        return
    nothing = f", or None for {none_means}" if none_means else ""
    takes = f"{name} takes a whole number from 0{nothing}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(takes)
    if value < 0:
        raise ValueError(takes)
