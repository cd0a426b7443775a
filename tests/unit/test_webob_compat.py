"""The inside of WebOb is as we rely on it in these versions. Look at another one before you name it here."""

import io
from importlib.metadata import version
from typing import Any

import pytest
import webapp2
import webob

from lastacross.webapp import forms, webob_compat

# `make test-versions` runs these tests with the first and the last of each.
VERSIONS = {"WebOb": ("1.8.9", "1.8.11"), "webapp2": ("3.0.0b1",), "multipart": ("2.0.0", "2.0.1")}
BODY = b'--x\r\nContent-Disposition: form-data; name=a; filename="b.txt"\r\n\r\nc\r\n--x--\r\n'


def environ_of(body: bytes, kind: str, **changes: Any) -> dict[str, Any]:
    """A POST of this body."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "CONTENT_TYPE": kind,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "webob.is_body_seekable": True,
        **changes,
    }


@pytest.mark.parametrize("package", VERSIONS)
def test_the_version_is_one_that_was_looked_at(package: str) -> None:
    assert version(package) in VERSIONS[package]


@pytest.mark.parametrize("cls", [webob.Request, webapp2.Request])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_form_that_was_read_is_not_read_again(cls: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("cgi was asked")

    monkeypatch.setattr("webob.request.cgi_FieldStorage", fail)
    environ = environ_of(BODY if "multipart" in kind else b"a=1", kind)
    forms.read_limited(environ, forms.UNLIMITED)

    assert list(cls(environ).POST) == ["a"]
    environ["wsgi.input"] = io.BytesIO(b"a=1")
    with pytest.raises(AssertionError, match="cgi was asked"):
        assert cls(environ).POST


def test_webapp2_takes_our_files_for_those_of_cgi() -> None:
    """It answers with their bytes."""
    environ = environ_of(BODY, "multipart/form-data; boundary=x")
    forms.read_limited(environ, forms.UNLIMITED)

    assert webapp2.Request(environ).get("a") == b"c"
    assert webob_compat.kept_form(environ)["a"].filename == "b.txt"
