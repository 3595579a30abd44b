"""Routes of the gateway, one module per subject. Each adds its own to the application."""
