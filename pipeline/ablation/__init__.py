"""Arms of a recipe, each trained with several seeds, measured on the same queries and compared."""
