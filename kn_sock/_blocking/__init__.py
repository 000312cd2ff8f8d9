"""The background reactor, and calls that threads wait for."""
