"""The web server's address, for processes that do not load the server."""

import contextlib
import errno
import ipaddress
import os
import socket

from lastacross.config import Settings
from lastacross.errors import StartupError

LISTENING_FD = "LASTACROSS_LISTENING_FD"
"""Environment variable: the socket on which the web server listens, which outlives the server."""

# The number of connections beyond the number of threads; these are kept alive or waiting for their first
# byte.
SPARE_CONNECTIONS = 1000
# The number of files that a process opens besides its connections, for Redis, the datastore and the
# application.
OTHER_FILES = 512
# As many connections as gunicorn lets wait.
BACKLOG = 2048


def needed_files(settings: Settings) -> int:
    """The number of files that a web process opens with all its connections."""
    return settings.web_threads + SPARE_CONNECTIONS + OTHER_FILES


def address(host: str, port: int) -> str:
    """The host and port in the form that gunicorn and URLs use."""
    return f"[{host}]:{port}" if _is_ipv6(host) else f"{host}:{port}"


def browsable_url(settings: Settings) -> str:
    """The address at which a browser on this machine reaches the server."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{address(anywhere.get(settings.host, settings.host), settings.port)}/"


def require_free_port(settings: Settings) -> None:
    """Check that the server can listen on its port.

    Raises:
        StartupError: the port is taken or not permitted, or the host does not belong to this machine.
    """
    if inherited_fd() is None:
        bound_socket(settings).close()


def inherited_fd() -> int | None:
    """The listening socket that this process inherited; None if it must open one itself."""
    text = os.environ.get(LISTENING_FD, "")
    return int(text) if text.isdigit() else None


def listening_socket(settings: Settings) -> socket.socket:
    """Listen for connections, which wait until a web server inherits this socket.

    Raises:
        StartupError: as for ``require_free_port``.
    """
    opened = bound_socket(settings)
    opened.listen(BACKLOG)
    opened.set_inheritable(True)
    return opened


def bound_socket(settings: Settings) -> socket.socket:
    """A socket at the server's address.

    Raises:
        StartupError: as for ``require_free_port``.
    """
    family = socket.AF_INET6 if _is_ipv6(settings.host) else socket.AF_INET
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(socket.socket(family))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except PermissionError as error:
            raise StartupError(
                f"PORT {settings.port} is reserved for privileged users: set PORT to a number above 1023"
            ) from error
        except socket.gaierror as error:
            raise StartupError(f"HOST {settings.host} has no address: {error.strerror}") from error
        except OSError as error:
            raise StartupError(_cannot_listen(settings, error)) from error
        stack.pop_all()
        return probe


def _cannot_listen(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE and settings.is_dev:
        command = "make run" if "MAKELEVEL" in os.environ else "lastacross dev"
        other = settings.port + 1 if settings.port < 65_535 else settings.port - 1
        return f"port {settings.port} on {settings.host} is in use: PORT={other} {command}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"PORT {settings.port} on {settings.host} is in use: stop the program that listens there, "
            f"or choose another, such as PORT={settings.port + 1}"
        )
    return f"cannot listen on HOST {settings.host}, PORT {settings.port}: {error.strerror}"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
