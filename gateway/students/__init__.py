"""Running students: one opened bundle, one ORT session; batching; which bundle serves."""
