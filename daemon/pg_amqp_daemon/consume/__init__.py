"""The door from RabbitMQ's queues into SQL and InfluxDB."""
