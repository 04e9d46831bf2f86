"""What gpuio makes of a machine, as ratios measured in one run. See README.md beside this file."""
