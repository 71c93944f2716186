"""`python -m preceptor.cli`: the same as `preceptor`."""

from preceptor.cli.main import main

if __name__ == "__main__":
    main()
