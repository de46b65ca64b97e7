"""``score predict`` from a checkout: see :mod:`score.app.predict`."""

from score.app.predict import main

if __name__ == "__main__":
    main()
