"""The calls that this end makes."""
