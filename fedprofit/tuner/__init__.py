"""Tuners: the parameters that a client trains in addition to the frozen backbone."""
