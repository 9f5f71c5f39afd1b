"""The door by which outbox and inbox come into a database without the extension."""
