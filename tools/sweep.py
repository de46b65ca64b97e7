"""``score sweep`` from a checkout: see :mod:`score.app.sweep`."""

from score.app.sweep import main

if __name__ == "__main__":
    main()
