"""The console: a page that says whether events flow, where they are stuck, and what to do.

One line in INSTALLED_APPS (`"towpath.console", "towpath.pages", "django_htmx"`) and one in urls.py
(`path("pipeline/", include("towpath.console.urls"))`) bring it into a project. It is a view of what `pipeline status`
says (`towpath.watch.overview`), and has no figure of its own: so the two cannot disagree.

    seen.py      what there is to see, read once for all who look
    verdict.py   in words: how it is, and what to do next
    flow.py      as a picture: a stage beside the other
    lines.py     the last two hours, as lines
    runbook.py   the section of the runbook for each problem
    actions.py   what people may do here
    views/       a module for each page
"""
