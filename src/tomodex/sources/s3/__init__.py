"""Buckets of an object store that speaks S3: instances, or archives of them, as objects."""
