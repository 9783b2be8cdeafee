"""One run of `just bench`: what is measured, for how long, and the comparison of two revisions."""
