"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`; or one of its commands: `python pdapt.py keys --help`."""

from guidsvc.cli.main import main

if __name__ == "__main__":
    main()
