"""The door by which the outbox comes into a database without the extension."""
