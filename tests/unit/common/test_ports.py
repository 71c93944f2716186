import socket

import pytest

from preceptor.common.errors import FailedPrecondition
from preceptor.common.ports import bindable, free_offset

HOST = "127.0.0.1"


def test_the_first_offset_at_which_every_port_is_free() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert not bindable(HOST, port)
        offset = free_offset(HOST, (port, port - 20))
        assert offset > 0
        with pytest.raises(FailedPrecondition, match=f"{port} to {port} are all in use") as error:
            free_offset(HOST, (port,), span=1)
    assert error.value.reason == "NO_FREE_PORT"
