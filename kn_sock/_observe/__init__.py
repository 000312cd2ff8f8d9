"""What is logged, counted and exported."""
