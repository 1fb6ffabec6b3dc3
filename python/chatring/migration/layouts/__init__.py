"""Sessions that others have written: in tables, in lists of Redis, and in files. A class for each layout."""
