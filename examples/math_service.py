"""A math service, as a module of functions."""

import math


def add(a, b):
    """Add two numbers."""
    return a + b


def divide(a, b):
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


def factorial(n: int):
    return math.factorial(n)


FUNCS = {"add": add, "divide": divide, "factorial": factorial}
