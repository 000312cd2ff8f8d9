"""Everything that setuptools needs is in setup.cfg."""

from setuptools import setup

setup()
