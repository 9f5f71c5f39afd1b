"""The door from amqp.outbox to RabbitMQ."""
