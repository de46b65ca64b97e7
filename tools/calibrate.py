"""``score calibrate`` from a checkout: see :mod:`score.app.calibrate`."""

from score.app.calibrate import main

if __name__ == "__main__":
    main()
