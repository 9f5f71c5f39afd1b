"""`make bench`: what pg_amqp_py costs, each figure beside its limit from the same run."""
