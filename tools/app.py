"""``score app`` from a checkout: see :mod:`score.app.app`."""

from score.app.app import main

if __name__ == "__main__":
    main()
