"""How a server listens, and who may use it."""
