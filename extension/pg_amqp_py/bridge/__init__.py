"""Outside of the server: the daemon pg-amqp."""
