"""``score weights`` from a checkout: see :mod:`score.app.weights`."""

from score.app.weights import main

if __name__ == "__main__":
    main()
