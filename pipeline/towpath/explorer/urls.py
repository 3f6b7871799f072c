"""The URLs of the explorer, relative to where a project includes them."""

from __future__ import annotations

from django.urls import path

from towpath.explorer.views import api
from towpath.explorer.views.event import context, event, neighbours
from towpath.explorer.views.export import export
from towpath.explorer.views.page import more_rows, page
from towpath.explorer.views.parts import bars, facet_list
from towpath.explorer.views.saved import change, choose_columns, list_of_views, save
from towpath.explorer.views.tail import tail
from towpath.explorer.views.timeline import timeline

app_name = "explorer"

urlpatterns = [
    path("", page, name="page"),
    path("rows", more_rows, name="rows"),
    path("histogram", bars, name="histogram"),
    path("facets", facet_list, name="facets"),
    path("export", export, name="export"),
    # `towpath.explorer.links.event_path` makes this URL.
    path("event/<path:place>", event, name="event"),
    path("context/<path:place>", context, name="context"),
    path("around/<path:place>", neighbours, name="around"),
    path("tail", tail, name="tail"),
    path("timeline", timeline, name="timeline"),
    path("columns", choose_columns, name="columns"),
    path("views/", list_of_views, name="views"),
    path("views/save", save, name="save-view"),
    path("views/<int:number>", change, name="change-view"),
    path("api/search", api.search, name="api-search"),
    path("api/histogram", api.bars, name="api-histogram"),
    path("api/export", api.export, name="api-export"),
]
