"""Programs outside the server, between its outbox and RabbitMQ."""
