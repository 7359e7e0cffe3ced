"""Callbacks: which tenants may have them, to which addresses they may go, and how they are signed."""
