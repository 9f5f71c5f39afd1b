"""What every door of the daemon needs; it knows none of them."""
