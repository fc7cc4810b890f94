"""A store for the tests of preparations."""

from tests.storage.test_locations import s3_server

__all__ = ["s3_server"]
