"""The error for an unreadable form, phrased as a sentence for its sender."""

FIELDS_SETTING = "LASTACROSS_MAX_FORM_FIELDS"
BYTES_SETTING = "LASTACROSS_MAX_FORM_BYTES"
UNREADABLE = (
    "The form could not be read: it must be UTF-8, with its parts separated as its Content-Type declares."
)
MAX_NAME_CHARACTERS = 100
"""The maximum number of characters of a field's name that a message quotes."""


class FormError(Exception):
    """Raised when a form is rejected; ``status`` is the status to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @classmethod
    def of_fields(cls, limit: int) -> "FormError":
        """The error for a form with too many fields."""
        return cls(
            400, f"The form has more than the {limit:,} fields that this server accepts ({FIELDS_SETTING})."
        )

    @classmethod
    def of_charset(cls, name: str, charset: str) -> "FormError":
        """The error for a field with bytes that are invalid in its charset."""
        shown = name[:MAX_NAME_CHARACTERS]
        return cls(
            400, f"The form's field {shown!r} contains bytes that are invalid in its charset, {charset}."
        )

    @classmethod
    def of_bytes(cls, limit: int) -> "FormError":
        """The error for a form that is too long even without its files."""
        return cls(
            413, f"The form is longer than the {limit:,} bytes that this server accepts ({BYTES_SETTING})."
        )
