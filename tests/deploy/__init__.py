"""Tests of what a deployment is made of: containers, roles, users, definitions, manifests, certificates."""
