"""gpuio under other libraries: one module each, on gpuio's public names only. Their packages come with extras of the same name."""
