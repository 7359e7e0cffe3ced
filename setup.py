"""Tells setuptools that the folders `consumer`, `producer`, `inference`, `schemas`, `tools` are packages of `darkroom`.

Everything else is in pyproject.toml, which cannot name packages that are found in one place and installed in another.
"""

from setuptools import find_packages, setup

ROOMS = ("consumer", "producer", "inference", "schemas", "tools")

setup(
    packages=["darkroom", *(f"darkroom.{name}" for name in find_packages(include=[f"{room}*" for room in ROOMS]))],
    package_dir={"darkroom": "darkroom", **{f"darkroom.{room}": room for room in ROOMS}},
)
