"""The command pg-amqp check: one look at everything from outside."""
