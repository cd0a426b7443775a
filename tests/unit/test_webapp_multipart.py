"""Forms in parts: fields and files, and what is refused."""

import io
from typing import Any

import pytest
import webapp2

from lastacross.webapp import forms, multipart_form
from lastacross.webapp.form_error import FormError
from lastacross.webapp.forms import Limits
from lastacross.webapp.webapp2_compat import prepare
from tests.unit.test_webob_compat import environ_of

KIND = "multipart/form-data; boundary=x"
END = b"--x--\r\n"

prepared = webapp2.WSGIApplication([])
prepare(prepared)


def part(content: bytes, *headers: str, name: str = "a", more: str = "") -> bytes:
    """One part of a form."""
    head = "\r\n".join([f'Content-Disposition: form-data; name="{name}"{more}', *headers])
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(body: bytes, limits: Limits = forms.UNLIMITED) -> Any:
    """The fields of a form that came from outside."""
    environ = environ_of(body, KIND)
    forms.read_limited(environ, limits)
    return prepared.request_class(environ).POST


def both(body: bytes) -> list[list[tuple[str, Any]]]:
    """The fields as WebOb reads them, and as we do; of a file what an application may ask it."""
    found = []
    for cls in (webapp2.Request, prepared.request_class):
        request = cls(environ_of(body, KIND))
        found.append([(n, v if isinstance(v, str | bytes) else _seen(v)) for n, v in request.POST.items()])
        request.environ["wsgi.input"].close()
    return found


def _seen(file: Any) -> dict[str, Any]:
    names = ("name", "filename", "type", "type_options", "disposition", "disposition_options", "value")
    seen = {name: getattr(file, name) for name in names}
    return {**seen, "read": file.file.read(), "header": file.headers["content-type"]}


@pytest.mark.parametrize(
    "body",
    [
        END,
        part(b"1") + END,
        part(b"1") + part(b"2") + part("ä".encode(), name="ö") + END,
        part(b"") + part(b"\r\n--\r\n") + END,
        part(b"file", "Content-Type: text/x; a=b", more='; filename="c.txt"') + END,
        part(b"\0\r\n--y", "Content-Type: image/png", more='; filename="ä b.png"') + END,
        part(b"", "Content-Type: application/octet-stream", more='; filename=""') + END,
        part(b"YQ==", "Content-Transfer-Encoding: base64") + END,
        part(b"=41", "Content-Transfer-Encoding: quoted-printable") + END,
        part(b"1", "Content-Type: text/plain; charset=utf-8") + END,
        part(b"\xff\xfe") + END,
        b"\r\n" + part(b"1") + END + b"after",
    ],
)
def test_a_form_is_read_as_webob_reads_it(body: bytes) -> None:
    theirs, ours = both(body)

    assert ours == theirs


@pytest.mark.parametrize("charset", ["iso-8859-1", "iso-8859-15", "windows-1252", "utf-8"])
def test_a_part_may_be_in_a_charset_of_its_own(charset: str) -> None:
    """WebOb reads it as UTF-8 and makes the worst of it."""
    fields = form(part("ä".encode(charset), f"Content-Type: text/plain; charset={charset}") + END)

    assert fields["a"] == "ä"


def test_a_part_that_is_not_in_its_charset_is_refused_by_its_name() -> None:
    with pytest.raises(
        FormError, match="The form's field 'a' contains bytes that are invalid in its charset, cp1252"
    ):
        form(part(b"\x81", "Content-Type: text/plain; charset=windows-1252") + END)


def test_the_headers_of_all_parts_are_bounded_together() -> None:
    parts = part(b"1", "A: " + "b" * 1000) * 250

    assert len(form(parts + END, Limits(fields=1000, size=2**20))) == 250
    with pytest.raises(FormError, match="more than 262,144 bytes of headers"):
        form(parts * 2 + END, Limits(fields=1000, size=2**20))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"rubbish",
        b"--x",
        part(b"1"),
        part(b"1") + b"--y--\r\n",
        part(b"1").replace(b"\r\n", b"\n") + END,
        part(b"1").replace(b"form-data", b"attachment") + END,
        part(b"1").replace(b"Content-Disposition", b"Content Disposition") + END,
        part(b"abcde", "Content-Transfer-Encoding: base64") + END,
        part(b"1", "Content-Type: text/plain; charset=hex") + END,
        part(b"1", "Content-Type: text/plain; charset=windows-1253") + END,
        part(b"1", "Content-Type: text/plain; charset=utf-16") + END,
        part(b"1", "Content-Type: multipart/mixed; boundary=y") + END,
    ],
)
def test_what_is_not_in_its_parts_is_refused(body: bytes) -> None:
    with pytest.raises(FormError, match="could not be read") as raised:
        form(body)

    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (part(b"1") * 3 + END, 400, "more than the 2 fields .*LASTACROSS_MAX_FORM_FIELDS"),
        (
            part(b"1", more="; filename=b") * 3 + END,
            400,
            "more than the 2 fields .*LASTACROSS_MAX_FORM_FIELDS",
        ),
        (part(b"1" * 1000) + END, 413, "longer than the 1,000 bytes .*LASTACROSS_MAX_FORM_BYTES"),
        (part(b"1" * 600) * 2 + END, 413, "longer than the 1,000 bytes .*LASTACROSS_MAX_FORM_BYTES"),
        (
            part(b"1", "A: " + "b" * 1000) + END,
            413,
            "longer than the 1,000 bytes .*LASTACROSS_MAX_FORM_BYTES",
        ),
        (part(b"1", "A: " + "b" * 9000) + END, 400, "8 headers, or one of more than 1,024 bytes"),
        (part(b"1", *["A: b"] * 9) + END, 400, "8 headers"),
    ],
)
def test_too_much_of_something_is_refused_with_its_limit(body: bytes, status: int, says: str) -> None:
    with pytest.raises(FormError, match=says) as raised:
        form(body, Limits(fields=2, size=1000))

    assert raised.value.status == status


@pytest.mark.parametrize("size", [1000, multipart_form.MEMORY_BYTES + 1])
def test_files_may_be_longer_and_each_can_be_read_where_it_stands(size: int) -> None:
    files = {"a": b"1" * size, "b": b"", "c": b"3" * size}
    body = (
        b"".join(part(content, name=name, more=f"; filename={name}") for name, content in files.items()) + END
    )
    environ = environ_of(body, KIND)
    opened = forms.read_limited(environ, Limits(fields=3, size=1000))
    fields = prepared.request_class(environ).POST

    assert {name: fields[name].file.read() for name in files} == files
    assert fields["a"].file.read() == b""
    fields["a"].file.seek(-2, io.SEEK_END)
    fields["c"].file.seek(1)
    assert (fields["a"].file.read(), fields["c"].file.tell()) == (b"11", 1)
    assert fields["c"].value == files["c"]
    with pytest.raises(ValueError, match="negative seek"):
        fields["a"].file.raw.seek(-1)
    assert opened is not None
    opened.close()


def test_a_file_may_be_empty() -> None:
    file = form(part(b"", more="; filename=b") + END, Limits(fields=1, size=1000))["a"]

    assert (file.filename, file.file.read(), file.value) == ("b", b"", b"")


def test_the_body_can_be_read_after_the_form() -> None:
    environ = environ_of(part(b"1") + END, KIND)
    forms.read_limited(environ, forms.UNLIMITED)

    assert prepared.request_class(environ).body == part(b"1") + END
