"""Batches, the command line and pictures: the floor that knows all others."""
