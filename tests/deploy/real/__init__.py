"""What only the real servers show. `make real` starts them, and runs these tests; `make test` collects none of them."""
