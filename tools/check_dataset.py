"""``score check_dataset`` from a checkout: see :mod:`score.app.check_dataset`."""

from score.app.check_dataset import main

if __name__ == "__main__":
    main()
