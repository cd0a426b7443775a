"""The site with its climate report as a long task."""

from django.template.loader import render_to_string
from weather import readings, wsgi

import longtask


def page(**parts: str) -> str:
    """Put a page of the report into the site's own frame."""
    return render_to_string("weather/frame.html", parts)


HANDLERS = {"/report": readings.climate_report, "/reports": longtask.ListHandler}
app = longtask.mount(wsgi.application, HANDLERS, page=page)
