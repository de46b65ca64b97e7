"""``score demo`` from a checkout: see :mod:`score.app.demo`."""

from score.app.demo import main

if __name__ == "__main__":
    main()
