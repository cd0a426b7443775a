"""The error for a form that is not read, in a sentence for its sender."""

FIELDS_SETTING = "LASTACROSS_MAX_FORM_FIELDS"
BYTES_SETTING = "LASTACROSS_MAX_FORM_BYTES"
UNREADABLE = (
    "The form could not be read: it takes UTF-8, and parts that are divided as its Content-Type says."
)
MAX_NAME_CHARACTERS = 100
"""Of a field's name, in a message."""


class FormError(Exception):
    """Raised when a form is not read: ``status`` is that of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @classmethod
    def of_fields(cls, limit: int) -> "FormError":
        """It has too many fields."""
        return cls(
            400, f"The form has more than the {limit:,} fields that this server takes ({FIELDS_SETTING})."
        )

    @classmethod
    def of_charset(cls, name: str, charset: str) -> "FormError":
        """A field has bytes that its charset has not."""
        shown = name[:MAX_NAME_CHARACTERS]
        return cls(400, f"The field {shown!r} of the form has bytes that its charset, {charset}, has not.")

    @classmethod
    def of_bytes(cls, limit: int) -> "FormError":
        """It is too long, files not counted."""
        return cls(
            413, f"The form is longer than the {limit:,} bytes that this server takes ({BYTES_SETTING})."
        )
