"""Where the sound of a file really ends: the rule, and what single formats show."""
