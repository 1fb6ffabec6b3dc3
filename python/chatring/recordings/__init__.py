"""Recorded conversations: reading them from files of JSON, and replaying them call by call."""
