"""Shards: tar files in the WebDataset layout, and the index that reads them by offset."""
