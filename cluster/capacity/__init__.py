"""What a run would take: measured on samples of its own corpus, reckoned for any size, and played through by chance."""
