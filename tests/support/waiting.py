"""Waiting for a condition, with a deadline: what tests use in place of a sleep."""

from preceptor.common.waiting import wait_until, wait_until_aio

__all__ = ["wait_until", "wait_until_aio"]
