"""The program pg-amqp, which runs beside the server."""
