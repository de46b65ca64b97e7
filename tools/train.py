"""``score train`` from a checkout: see :mod:`score.app.train`."""

from score.app.train import main

if __name__ == "__main__":
    main()
