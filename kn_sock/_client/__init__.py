"""How a client gets a connection, and another one when it is lost."""
