"""`python -m suite.cli`: the command line, where the script `cokv` is not installed."""

from suite.cli.main import main

if __name__ == "__main__":
    main()
