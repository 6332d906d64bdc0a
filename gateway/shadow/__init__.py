"""Comparing models on live traffic, after the reply and never in its way."""
