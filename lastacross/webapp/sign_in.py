"""Serves ``/_ah/sign-in``, which exchanges a code for the administrator's cookie, and ``/_ah/sign-out``.

A GET never uses up a code, because mail programs, chats and browsers open links before anyone has clicked.
The page contains a form, and its script fills in the part of the address after the #.
"""

from collections.abc import Mapping
from urllib.parse import parse_qs

from lastacross import logs
from lastacross.config import Config
from lastacross.errors import StoreUnavailableError
from lastacross.webapp import administrator, error_pages, login, sessions, templating
from lastacross.webapp.environ import Body, Environ, Refusal, Refuse, Start, Wsgi

SIGN_OUT_PATH = "/_ah/sign-out"
TEMPLATE = "_ah/sign_in.html"
MAX_FORM_BYTES = 4096
USED = (
    "This code is invalid or has been used: each one works once, within an hour. "
    "Run `lastacross admin link` for a new one."
)

_log = logs.get(__name__)


def pages(config: Config, refuse: Refuse) -> Mapping[str, Wsgi]:
    """The two addresses, by their paths."""
    found = _Pages(config, refuse)
    return {administrator.PATH: found.sign_in, SIGN_OUT_PATH: found.sign_out}


class _Pages:
    def __init__(self, config: Config, refuse: Refuse) -> None:
        self._config = config
        self._secret_key = config.settings.secret_key
        self._refuse = refuse

    def sign_in(self, environ: Environ, start_response: Start) -> Body:
        """Show the form or a note that the visitor is signed in (GET), or sign in with ``code`` (POST)."""
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._page(environ, start_response, 200)
        if environ["REQUEST_METHOD"] != "POST":
            return self._refuse(environ, start_response, Refusal(405, headers=[("Allow", "GET, HEAD, POST")]))
        form = environ["wsgi.input"].read(MAX_FORM_BYTES).decode("latin-1")
        code = parse_qs(form).get("code", [""])[-1].strip()
        address = environ.get("REMOTE_ADDR")
        if not administrator.use_code(self._secret_key, code):
            _log.warning("administrator.refuse", address=address)
            return self._page(environ, start_response, 403, USED)
        _log.info("administrator.sign_in", address=address)
        cookie = administrator.set_cookie(self._secret_key, administrator.new_cookie(self._secret_key))
        # One browser, one person: otherwise an account's session would reappear after the sign-out.
        session = sessions.set_cookie(self._secret_key, "", environ, seconds=0)
        return sessions.see_other(start_response, "/", [session, cookie])

    def sign_out(self, environ: Environ, start_response: Start) -> Body:
        """Delete the cookie (POST only)."""
        if environ["REQUEST_METHOD"] != "POST":
            return self._refuse(environ, start_response, Refusal(405, headers=[("Allow", "POST")]))
        address = environ.get("REMOTE_ADDR")
        had_session = sessions.person_of(environ, self._secret_key) is not None
        try:
            was_signed_in = administrator.sign_out(environ, self._secret_key)
            if sessions.sign_out(environ, self._secret_key) or was_signed_in:
                _log.info("administrator.sign_out", address=address)
        except StoreUnavailableError as error:
            # This browser is signed out, but any copy of its cookie still works.
            _log.warning("administrator.sign_out", address=address, error=str(error))
        gone = [
            sessions.set_cookie(self._secret_key, "", environ, seconds=0),
            administrator.set_cookie(self._secret_key, "", seconds=0),
        ]
        return sessions.see_other(
            start_response, login.SIGN_IN_PATH if had_session else administrator.PATH, gone
        )

    def _page(self, environ: Environ, start_response: Start, status: int, problem: str = "") -> Body:
        settings = self._config.settings
        template = templating.environment(self._config.root, settings.is_dev).get_template(TEMPLATE)
        page = template.render(problem=problem, is_signed_in=login.is_administrator(environ, settings))
        answer = error_pages.plain(start_response, status, page.encode(), "text/html; charset=utf-8")
        return [] if environ["REQUEST_METHOD"] == "HEAD" else answer
