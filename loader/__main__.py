"""`python -m loader`: runs the loader service (`loader/service.py`)."""

from loader.service import main
from shared.service import run_service

if __name__ == "__main__":
    run_service("loader", main)
