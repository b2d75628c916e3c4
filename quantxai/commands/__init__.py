"""The commands of `quantxai`, one module per group; each imports what it needs when it runs."""
