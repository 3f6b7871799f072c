"""Tests of deploy/local: they start what they need themselves and leave nothing running."""
