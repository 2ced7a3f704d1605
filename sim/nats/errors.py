"""What JetStream says when it does not do what it was asked for.

Source: nats-server 2.15 (``server/errors.json``).
"""

from __future__ import annotations


class ApiError(Exception):
    """``status``: as in HTTP; ``code``: JetStream's own number."""

    def __init__(self, status: int, code: int, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.code = code

    @property
    def json(self) -> dict[str, object]:
        return {"code": self.status, "err_code": self.code, "description": str(self)}


def bad_request(description: str = "bad request") -> ApiError:
    return ApiError(400, 10003, description)


def stream_not_found() -> ApiError:
    return ApiError(404, 10059, "stream not found")


def consumer_not_found() -> ApiError:
    return ApiError(404, 10014, "consumer not found")


def no_message() -> ApiError:
    return ApiError(404, 10037, "no message found")


def wrong_last(sequence: int) -> ApiError:
    return ApiError(400, 10071, f"wrong last sequence: {sequence}")


def store_failed(why: str) -> ApiError:
    return ApiError(503, 10077, why)
