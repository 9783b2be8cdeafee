"""What Tandem is made of that others have written, and where it comes from."""
