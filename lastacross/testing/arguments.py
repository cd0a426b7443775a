"""Checks numbers that a test passes, because a wrong one would run nothing and look like success."""


def check_seconds(name: str, value: object) -> None:
    """Raise an error unless the value is None or a valid duration.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is negative or NaN.
    """
    if value is None:
        return
    takes = f"{name} must be a number of seconds from 0, or None, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(takes)
    if not value >= 0:
        raise ValueError(takes)


def check_count(name: str, value: object, *, none_means: str = "") -> None:
    """Raise an error unless the value is a non-negative whole number, or None if that is allowed.

    Raises:
        TypeError: the value is of a different type.
        ValueError: the value is negative.
    """
    if value is None and none_means:
        return
    nothing = f", or None for {none_means}" if none_means else ""
    takes = f"{name} must be a whole number from 0{nothing}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(takes)
    if value < 0:
        raise ValueError(takes)
