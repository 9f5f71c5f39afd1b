"""Messages of a queue as points of an InfluxDB."""
