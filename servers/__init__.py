"""Private servers for demo, tests and benchmarks: nothing of the system's is touched."""
