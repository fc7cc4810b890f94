"""Published corpora, read as their authors publish them, become manifests."""
