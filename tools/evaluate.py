"""``score evaluate`` from a checkout: see :mod:`score.app.evaluate`."""

from score.app.evaluate import main

if __name__ == "__main__":
    main()
