"""The web side, measured with everything real: gunicorn, workers, Redis, a browser."""
