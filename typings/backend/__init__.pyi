"""What we use of Forge's backend."""
