"""`make demo`: what pg_amqp_py does, shown on private servers."""
