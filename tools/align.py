"""``score align`` from a checkout: see :mod:`score.app.align`."""

from score.app.align import main

if __name__ == "__main__":
    main()
