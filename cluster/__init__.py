"""Running the pipeline on clusters: capacity planning, job submission, manifests, failure drills."""
