"""The token's file, at the start and at every call."""

from __future__ import annotations

import pytest

from server.files.admin_token_file import AdminTokenError, read_admin_token


def test_white_space_around_it_is_none_of_it(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    assert read_admin_token(tmp_path / "token") == "secret"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff", "invalid start")],
)
def test_a_file_without_one_is_named_with_what_to_do(tmp_path, content, words):
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(AdminTokenError, match=f"{words}.*--admin-token-file"):
        read_admin_token(tmp_path / "token")
