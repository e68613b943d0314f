"""Reads a body and judges its events one by one. Pure."""
