"""`python -m e2e.cluster`: see `cli`."""

from e2e.cluster.cli import main

if __name__ == "__main__":
    main()
