"""Rivals of training: other samplers' rules, as policies that draw tokens or count supports."""
