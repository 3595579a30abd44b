"""What a run would take: paces measured on samples, reckoned for any size, and played through by chance."""
