"""Running the pipeline on clusters: jobs, buckets, manifests, what a run takes, and what may happen to it."""
