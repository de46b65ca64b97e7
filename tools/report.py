"""``score report`` from a checkout: see :mod:`score.app.report`."""

from score.app.report import main

if __name__ == "__main__":
    main()
