"""Preparation: manifests become shards."""
