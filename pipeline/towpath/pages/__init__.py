"""The frame of every page of Towpath: the template that they extend, its look, its keys, and what a browser may do.

A page takes nothing from another site and runs nothing that is written on it. `towpath.pages` in INSTALLED_APPS is
where Django finds templates and static files; what stands in a frame is the page's own app's.
"""
