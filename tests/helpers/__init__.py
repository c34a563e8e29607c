"""Helpers that several tests share: tiny networks, scenes and projects."""
