"""The stack without Docker: PostgreSQL, RabbitMQ, a ClickHouse endpoint, the application: children of one process.

Invariant: nothing outlives the process that started it, and nothing listens beyond loopback.
"""
