"""nginx and Caddy from Debian's packages, with the example configurations in ``deploy/``."""

import contextlib
import http.client
import os
import pwd
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import tls
from tests.support.processes import ROOT, Started, started, wait_until
from tests.support.site import free_port

NAME = "shop.example"
EXAMPLES = ROOT / "deploy"


@dataclass(frozen=True)
class ReverseProxy:
    """A running proxy.

    Attributes:
        kind: one of KINDS.
        http_port: the port for plain HTTP on the loopback interface.
        https_port: the port for TLS.
        logged: a function that returns everything the proxy has logged so far.
    """

    kind: str
    http_port: int
    https_port: int
    logged: Callable[[], str]

    @property
    def host(self) -> str:
        """The value of a browser's Host header."""
        return f"{NAME}:{self.https_port}"

    def connection(self) -> http.client.HTTPSConnection:
        """A new TLS connection that does not check the certificate."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.https_port, timeout=20, context=context)

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request; returns the response's status, headers and body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, {"Host": self.host, **named})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()


def _nginx(folder: Path, changes: Mapping[str, str]) -> list[str]:
    example = _changed(
        (EXAMPLES / "nginx.conf").read_text(),
        {
            "127.0.0.1:8080": changes["site"],
            "/var/log/nginx/access.log": f"{folder}/access.log",
            "listen 80 ": f"listen 127.0.0.1:{changes['http']} ",
            "listen 443 ": f"listen 127.0.0.1:{changes['https']} ",
            "/etc/ssl/shop.example.crt": f"{folder}/certificate.pem",
            "/etc/ssl/shop.example.key": f"{folder}/key.pem",
        },
    )
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Run it as this user instead of its default one, because only this user can read this folder.
    user = pwd.getpwuid(os.getuid()).pw_name
    main = (
        f"user {user};\npid {folder}/pid;\ndaemon off;\nworker_processes 1;\nerror_log stderr;\nevents {{}}\n"
    )
    (folder / "nginx.conf").write_text(
        f"{main}http {{\naccess_log {folder}/access.log;\n{paths}{example}\n}}\n"
    )
    return [program("nginx"), "-c", f"{folder}/nginx.conf", "-p", str(folder), "-e", "stderr"]


def _caddy(folder: Path, changes: Mapping[str, str]) -> list[str]:
    files = f"{folder}/certificate.pem {folder}/key.pem"
    example = _changed(
        (EXAMPLES / "Caddyfile").read_text(),
        {
            "127.0.0.1:8080": changes["site"],
            "\nshop.example {\n": f"\nhttps://shop.example {{\n\ttls {files}\n",
        },
    )
    # There is no site block for HTTP, because Caddy redirects HTTP by itself.
    ports = f"http_port {changes['http']}\n\thttps_port {changes['https']}\n\tdefault_bind 127.0.0.1\n"
    options = f"{{\n\tadmin off\n\t{ports}}}\n"
    (folder / "Caddyfile").write_text(options + example)
    return [program("caddy"), "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


KINDS: Mapping[str, Callable[[Path, Mapping[str, str]], list[str]]] = {"nginx": _nginx, "caddy": _caddy}


def program(name: str) -> str:
    """The path of a program; Debian puts some of them where only root looks."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    assert found, f"the tests need {name}: apt-get install {name}"
    return found


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running_proxy(kind: str, site_port: int) -> Iterator[ReverseProxy]:
    """Run a proxy in front of the site at this port on the loopback interface."""
    ports = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="la-proxy-") as name:
        folder = Path(name)
        tls.speaking_tls(folder)
        changes = {
            "site": f"127.0.0.1:{site_port}",
            "http": str(ports[0]),
            "https": str(ports[1]),
        }
        home = {"HOME": name, "XDG_DATA_HOME": name, "XDG_CONFIG_HOME": name}
        with started(KINDS[kind](folder, changes), folder, home) as process:
            access_log = folder / "access.log"
            proxy = ReverseProxy(
                kind,
                *ports,
                logged=lambda: process.text() + (access_log.read_text() if access_log.exists() else ""),
            )
            _wait(proxy, process)
            yield proxy
            if kind == "nginx":
                # SIGKILL would leave its workers behind.
                process.send(signal.SIGTERM)
                process.wait()


def _wait(proxy: ReverseProxy, process: Started) -> None:
    def answers() -> bool:
        assert process.process.poll() is None, process.text()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return proxy.request("/_ah/health")[0] == 200
        time.sleep(0.05)
        return False

    wait_until(answers, 60, "the proxy answers")
