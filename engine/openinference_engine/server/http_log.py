"""What aiohttp may log: what it could not parse may be a credential or a part of a prompt."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger("openinference.http")


def _hide_bytes(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "request not parsed", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


log.addFilter(_hide_bytes)
