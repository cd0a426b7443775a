"""The site's addresses."""

from django.urls import path

from weather import views

urlpatterns = [
    path("", views.stations, name="stations"),
    path("station/<slug:name>/", views.station, name="station"),
    path("convert/", views.convert, name="convert"),
    path("report", views.report, name="report"),
]
