"""What clients send and get, one module per dialect."""
