"""Code that the programs' forms share: it reads fields and reports mistakes in them."""

import re
from collections.abc import Mapping
from typing import Any

from webob.multidict import NoVars

from lastacross import webapp

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")

SHOWN_CHARACTERS = 40
"""An error message quotes at most this many characters of the input."""


class FormError(Exception):
    """Raised for invalid fields; ``mistakes`` says for each of them what it accepts.

    Attributes:
        status: the response's HTTP status.
        more: further values for the JSON that programs get.
    """

    def __init__(self, mistakes: dict[str, str], status: int = 400, **more: object) -> None:
        super().__init__(" ".join(f"{name} {mistake}" for name, mistake in mistakes.items()))
        self.mistakes = mistakes
        self.status = status
        self.more = more


class Handler(webapp.RequestHandler):
    """A page with a form; the base class handles invalid input."""

    def form(self) -> Mapping[str, Any]:
        """Read the fields of this POST request.

        Raises:
            BadInputError: the body is not a form. Treated as an empty form, it would start something that
                nobody asked for.
        """
        if self.request.body and isinstance(self.request.POST, NoVars):
            raise webapp.BadInputError("Content-Type", f"must be a form ({' or '.join(FORM_TYPES)})")
        fields: Mapping[str, Any] = self.request.POST
        return fields

    def refuse(self, error: FormError) -> None:
        """Report the mistakes as JSON, or in the form with each mistake next to its field."""
        if self.wants_json():
            first = next(iter(error.mistakes))
            body = {"code": error.status, "field": first, "message": str(error), "fields": error.mistakes}
            self.render_json({"error": {**body, **error.more}}, error.status)
        else:
            self.show_form(self.request.POST, error.mistakes, error.status)

    def show_form(self, given: Mapping[str, Any], mistakes: Mapping[str, str], status: int = 200) -> None:
        """Render the form with the given values and each mistake next to its field."""
        raise NotImplementedError


def whole_number(text: object) -> int | None:
    """Parse plain digits, or return None; ``int`` would also accept ``1_0`` and digits of other scripts."""
    is_one = isinstance(text, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text, re.ASCII)
    return int(str(text)) if is_one else None


def parse_after(query: Mapping[str, Any], what: str) -> int:
    """Read ``?after=n``, which leaves out everything that the page already has.

    Raises:
        BadInputError: the value is not a whole number.
    """
    after = whole_number(query.get("after", "0"))
    if after is None or after < 0:
        raise webapp.BadInputError(
            "after", f"must be a whole number, the number of {what} that the page already has"
        )
    return after


def number_between(text: object, lowest: int, highest: int) -> int:
    """Parse the whole number in a field.

    Raises:
        ValueError: the text is not a whole number in this range; the message says what the field accepts.
    """
    number = whole_number(text)
    if number is None or not lowest <= number <= highest:
        raise ValueError(f"must be a whole number from {lowest} to {highest}{given(text)}.")
    return number


def given(text: object) -> str:
    """The input, quoted for the end of a message."""
    if text is None:
        return "; it is missing"
    if not isinstance(text, str):
        return ", not a file"
    if not text.strip():
        return "; it is empty"
    # JSON may contain a lone surrogate, which cannot be shown on a page.
    shown = text[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode()
    return f", not “{shown}”"
