"""What a file computes, as data: one form for every format, and one matcher for any two graphs."""
