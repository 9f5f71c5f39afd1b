"""What runs inside a PostgreSQL backend, called by the SQL functions."""
