"""What the scripts share: one module per concern."""
