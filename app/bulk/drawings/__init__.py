"""Files to pictures: the attention of [CLS], and the features of patches, drawn as PNG."""
