"""The requester's role: messages that are answered, by RabbitMQ's Direct Reply-to."""
