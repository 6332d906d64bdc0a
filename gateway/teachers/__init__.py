"""The models that are asked when the student is not sure enough."""
