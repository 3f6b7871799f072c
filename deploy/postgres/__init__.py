"""PostgreSQL of a deployment: its roles, and what each may do."""
