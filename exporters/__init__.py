"""A trained torch module -> a bundle. Offline; knows nothing of recipes or data sets."""
