"""AMQP 0-9-1 from a message to confirmed bytes; knows nothing of PostgreSQL."""
