"""What we use of reForge's and Classic's model code."""
