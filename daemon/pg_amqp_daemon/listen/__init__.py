"""Listens: notifications of PostgreSQL become messages of RabbitMQ, as amqp.listener says."""
