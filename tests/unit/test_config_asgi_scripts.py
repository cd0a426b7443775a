"""``config check`` recognizes ASGI applications by their source."""

import sys
from pathlib import Path

import pytest

from lastacross import config
from tests.conftest import SECRET_KEY

ASGI = {
    "a FastAPI application": ("app = FastAPI()", "FastAPI"),
    "with a module and a type": ("app: Any = fastapi.FastAPI(title='x')", "FastAPI"),
    "with long tasks": ("app = FastAPI()\napp = longtask.mount(app, {})", "FastAPI"),
    "Django's": ("app = get_asgi_application()", "Django"),
    "a coroutine function": ("async def app(scope, receive, send): ...", "app"),
    "a class of its own": (
        "class Site:\n    async def __call__(self, scope, receive, send): ...\napp = Site()",
        "Site",
    ),
}
OTHERS = [
    "app = Flask(__name__)",
    "def app(environ, start_response): ...",
    "app = get_wsgi_application()",
    "app = FastAPI()\napp = a2wsgi.ASGIMiddleware(app)",
    "api = FastAPI()\napp = Flask(__name__)",
    "app = Flask(__name__)\napp = longtask.mount(app, {})",
    "app = FastAPI(",
    "from elsewhere import app",
]


def mistakes(root: Path, source: str) -> list[str]:
    (root / "app.yaml").write_text("handlers:\n- url: /.*\n  script: main.app\n")
    (root / "main.py").write_text(source)
    return [str(each) for each in config.check(root, {"SECRET_KEY": SECRET_KEY}).mistakes]


@pytest.mark.parametrize(("source", "kind"), ASGI.values(), ids=ASGI)
def test_an_asgi_application_needs_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, kind: str
) -> None:
    assert mistakes(tmp_path, source) == []
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    assert mistakes(tmp_path, source) == [
        f"app.yaml:2: script: main.app: `app` is an ASGI application ({kind}), which needs a2wsgi; "
        "install lastacross[asgi]"
    ]


@pytest.mark.parametrize("source", OTHERS)
def test_other_scripts_pass_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setitem(sys.modules, "a2wsgi", None)
    assert mistakes(tmp_path, source) == []
