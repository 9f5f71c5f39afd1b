"""Publish to RabbitMQ from inside PostgreSQL, exactly with the transaction."""
