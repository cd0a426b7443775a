"""A certificate for localhost, and its key. Both are public, so they are trusted only in tests."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUtoyeQhUN7H6xFkN
AzcX/rWdXryk2BgYwzaynVsbGl6hRANCAAQUEzqEZHpnn/1jZDN7VukqEq89zKxR
5ywE85mV+63C/gLjkgzKZ7Whh4IjmTy/OfYrf3DOWOekjD6N5/A6mN3W
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBQTOoRkemef/WNk
M3tW6SoSrz3MrFHnLATzmZX7rcL+AuOSDMpntaGHgiOZPL859it/cM5Y56SMPo3n
8DqY3dajXjBcMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MB0GA1UdDgQWBBRvm+98vGUub3C02dxLZ7om/MQsCTAOBgNVHQ8BAf8E
BAMCAoQwCgYIKoZIzj0EAwIDSAAwRQIhAM8ceNV5oQ9PvilwobdD+Kcadd3bSs+j
cc0XKSLG6mwRAiBF93l3IkHBeBHFn1NAk8lq/BeWOcXplOchqFIpdgcmYQ==
-----END CERTIFICATE-----
"""


def speaking_tls(folder: Path) -> Callable[[socket.socket], socket.socket]:
    """A function that wraps sockets as a TLS server; the certificate is ``certificate.pem`` in the folder."""
    (folder / "key.pem").write_text(KEY)
    (folder / "certificate.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return lambda connection: context.wrap_socket(connection, server_side=True)
