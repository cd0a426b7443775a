"""The web server's address, for processes that do not load the server."""

import errno
import ipaddress
import socket

from lastacross.config import Settings
from lastacross.errors import StartupError

# The number of connections beyond the number of threads; these are kept alive or waiting for their first
# byte.
SPARE_CONNECTIONS = 1000
# The number of files that a process opens besides its connections, for Redis, the datastore and the
# application.
OTHER_FILES = 512


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
    family = socket.AF_INET6 if _is_ipv6(settings.host) else socket.AF_INET
    with socket.socket(family) as probe:
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


def _cannot_listen(settings: Settings, error: OSError) -> str:
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
