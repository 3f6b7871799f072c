"""The views of the explorer. Each has one of the decorators in `access`, which check permissions."""
