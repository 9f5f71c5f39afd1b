# How a function in PL/Python finds the Python part of the extension: for @PYTHON@ in sql/functions/.
#
# It is loaded once in a session, but never in a parallel query: there PL/Python cannot begin the subtransaction that
# every query of its own runs in, and the ERROR would jump over Python's frames (see backend/server.py). Of a C function
# that returns a bool, only the lowest byte counts.
s/@PYTHON@/(GD.get("pg_amqp_py") or @REFUSE_PARALLEL_MODE@ or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"])/g
s/@REFUSE_PARALLEL_MODE@/__import__("ctypes").PyDLL(None).IsInParallelMode() \& 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000")/g
