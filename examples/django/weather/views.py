"""The site's pages."""

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from weather import forms, readings


def stations(request: HttpRequest) -> HttpResponse:
    """List the stations."""
    return render(request, "weather/stations.html", {"stations": readings.STATIONS})


def station(request: HttpRequest, name: str) -> HttpResponse:
    """Show one station."""
    if name not in readings.STATIONS:
        raise Http404(name)
    return render(request, "weather/station.html", {"name": name, "metres": readings.STATIONS[name]})


def convert(request: HttpRequest) -> HttpResponse:
    """Convert a temperature."""
    form = forms.Convert(request.POST or None)
    fahrenheit = form.cleaned_data["celsius"] * 9 / 5 + 32 if form.is_valid() else None
    return render(request, "weather/convert.html", {"form": form, "fahrenheit": fahrenheit})


def report(request: HttpRequest) -> HttpResponse:
    """Answer with the climate since a year, after seconds or minutes."""
    return HttpResponse(readings.climate_report(request.GET["since"]), content_type="text/plain")
