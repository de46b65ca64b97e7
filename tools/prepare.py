"""``score prepare`` from a checkout: see :mod:`score.app.prepare`."""

from score.app.prepare import main

if __name__ == "__main__":
    main()
