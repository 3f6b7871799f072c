"""RabbitMQ of a deployment: its own virtual host, and a user with least rights in it."""
