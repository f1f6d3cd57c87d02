"""The device's disk area."""
