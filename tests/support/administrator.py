"""Signs a client in as the administrator, by using the sign-in link's cookie instead of the link."""

from lastacross.webapp import administrator


def cookie(secret_key: str) -> str:
    """The ``Cookie`` header of the administrator of an installation with this secret key."""
    return f"{administrator.cookie_name(secret_key)}={administrator.new_cookie(secret_key)}"


def environ(secret_key: str) -> dict[str, str]:
    """The same header as a request's environ, for example for webtest's ``extra_environ``."""
    return {"HTTP_COOKIE": cookie(secret_key)}
