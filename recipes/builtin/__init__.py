"""Recipe of everything that ships in the package: the joint embedding and the extractor."""
