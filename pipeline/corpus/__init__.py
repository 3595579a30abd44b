"""Files of a corpus -> passages, duplicates and a quarantine of the rows that cannot be used."""
