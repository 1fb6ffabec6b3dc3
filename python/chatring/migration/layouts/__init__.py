"""The sessions that others leave behind: in tables, in lists of Redis, and in files. A class for each layout."""
