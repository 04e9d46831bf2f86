"""``python -m gpuio`` is the command ``gpuio``."""

from gpuio.cli import main

if __name__ == "__main__":
    main(prog_name="gpuio")
