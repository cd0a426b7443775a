"""The beginning of a Django application in one file, of which several may run in one process."""

HEAD = """\
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import clear_url_caches, path

if not settings.configured:
    settings.configure(
        ROOT_URLCONF="main", ALLOWED_HOSTS=["*"], SECRET_KEY="of tests", LOGGING_CONFIG=None, USE_I18N=False
    )
    django.setup()
settings.MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
# The former application's addresses.
clear_url_caches()
"""
