"""The error for a form that is not read, in a sentence for its sender."""

FIELDS_SETTING = "LASTACROSS_MAX_FORM_FIELDS"
BYTES_SETTING = "LASTACROSS_MAX_FORM_BYTES"
UNREADABLE = (
    "The form could not be read: it takes UTF-8, and parts that are divided as its Content-Type says."
)


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
    def of_bytes(cls, limit: int) -> "FormError":
        """It is too long, files not counted."""
        return cls(
            413, f"The form is longer than the {limit:,} bytes that this server takes ({BYTES_SETTING})."
        )
