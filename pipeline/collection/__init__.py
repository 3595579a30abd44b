"""A searchable collection that changes while it is read: generations of vector, word and passage shards."""
