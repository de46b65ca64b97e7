"""``score change`` from a checkout: see :mod:`score.app.change`."""

from score.app.change import main

if __name__ == "__main__":
    main()
