"""Understudy offline: data and a teacher -> certified students."""
