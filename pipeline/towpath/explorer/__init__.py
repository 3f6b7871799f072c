"""The explorer: pages on which people find what happened.

A project adds it with one line in INSTALLED_APPS (`"towpath.explorer", "towpath.pages", "django_htmx"`) and one in
urls.py (`path("events/", include("towpath.explorer.urls"))`). It reads the event store through `towpath.eventlog` and
the state of the pipeline through `towpath.watch`, and changes neither.

    state.py     what a page shows, as its URL says it: query, period, time zone, columns
    reading.py   the store as a page reads it: with time limits, and within a person's scope
    views/       a module for each URL, or for a few of the same kind
"""
