"""``score convert`` from a checkout: see :mod:`score.app.convert`."""

from score.app.convert import main

if __name__ == "__main__":
    main()
