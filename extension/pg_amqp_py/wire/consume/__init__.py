"""The consumer's role: from received bytes to deliveries. Never loaded in a backend."""
