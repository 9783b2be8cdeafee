"""The Helm charts in `deploy/`, rendered and checked without a cluster."""
