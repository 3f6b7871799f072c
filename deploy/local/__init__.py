"""The stack without Docker: PostgreSQL, RabbitMQ, a ClickHouse endpoint and the application, as children of one process.

Invariant: nothing outlives the process that started it, and nothing listens beyond loopback.
"""
