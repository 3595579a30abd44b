"""Running the pipeline on clusters: jobs, buckets, manifests, and clusters of one machine to try it on."""
