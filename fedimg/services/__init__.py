"""The clouds that fedimg publishes to, one service a file."""
