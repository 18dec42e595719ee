"""`python -m ssd_probe.cli`, for torchrun and accelerate launch."""

from ssd_probe.cli.app import main

if __name__ == "__main__":
    main()
