"""The servers of production, built on one Debian machine from nothing but its package registries: `make real`.

RabbitMQ 4 and PostgreSQL 17 run in a Debian 13 tree, Docker too. ClickHouse's own HTTP server is in a library on npm.
What is built is kept in a cache folder (REAL_CACHE). Nothing here is part of a deployment.
"""
