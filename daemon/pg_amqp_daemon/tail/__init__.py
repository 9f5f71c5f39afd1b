"""The command pg-amqp tail: messages, shown as they come."""
