"""The soak: random faults under load, then quiet, then the books are compared."""
