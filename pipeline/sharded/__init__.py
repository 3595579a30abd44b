"""Shards of any index: their files and generations, the actors that hold them, and one ranking of their answers."""
