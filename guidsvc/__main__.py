"""`python -m guidsvc`: the same as the command `guidsvc`."""

from guidsvc.cli.main import main

if __name__ == "__main__":
    main()
