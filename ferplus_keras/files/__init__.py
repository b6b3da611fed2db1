"""One door in and one door out for every file."""
