"""Signs a client in as the administrator, without the link: with the cookie that the link gives."""

from lastacross.webapp import administrator


def cookie(secret_key: str) -> str:
    """The header ``Cookie`` of the administrator of an installation with this key."""
    return f"{administrator.cookie_name(secret_key)}={administrator.new_cookie(secret_key)}"


def environ(secret_key: str) -> dict[str, str]:
    """The same for the environ of a request, such as webtest's ``extra_environ``."""
    return {"HTTP_COOKIE": cookie(secret_key)}
