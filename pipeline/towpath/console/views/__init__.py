"""The views of the console, a module for each page."""
