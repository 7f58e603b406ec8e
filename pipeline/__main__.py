"""`python -m pipeline` is `wsi`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
