"""``score benchmark`` from a checkout: see :mod:`score.app.benchmark`."""

from score.app.benchmark import main

if __name__ == "__main__":
    main()
