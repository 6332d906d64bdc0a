"""Rehearsals of what an upstream may do, against a gateway of the user's own settings."""
