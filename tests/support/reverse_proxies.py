"""nginx and Caddy, Debian's packages, with the example configurations of ``deploy/``."""

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
    """A proxy that runs.

    Attributes:
        kind: one of KINDS.
        http_port: where it takes plain HTTP, on loopback.
        https_port: where it takes TLS.
        logged: gives all that it has logged so far.
    """

    kind: str
    http_port: int
    https_port: int
    logged: Callable[[], str]

    @property
    def host(self) -> str:
        """A browser's Host."""
        return f"{NAME}:{self.https_port}"

    def connection(self) -> http.client.HTTPSConnection:
        """A new connection of TLS; the certificate is not looked at."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.https_port, timeout=20, context=context)

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer."""
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
    # Not as the user that it would become: this folder is ours alone.
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
    # Without a place for HTTP of its own: Caddy redirects there by itself.
    ports = f"http_port {changes['http']}\n\thttps_port {changes['https']}\n\tdefault_bind 127.0.0.1\n"
    options = f"{{\n\tadmin off\n\t{ports}}}\n"
    (folder / "Caddyfile").write_text(options + example)
    return [program("caddy"), "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


KINDS: Mapping[str, Callable[[Path, Mapping[str, str]], list[str]]] = {"nginx": _nginx, "caddy": _caddy}


def program(name: str) -> str:
    """Its path; Debian has some where only root looks."""
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
    """A proxy before the site at this port of loopback."""
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
                # Killed with -9, it would leave its workers behind.
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
