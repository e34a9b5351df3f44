"""What we use of Forge's and its relatives' own modules."""
