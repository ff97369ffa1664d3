import pytest

from semimae.types import UserError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("x.png cannot be read; repair it.", "x.png cannot be read; repair it."),
        ("two\nlines\r\n\tand  more", "two lines and more"),
        ("a\u2028b\u0085c\x0bd", "a b c d"),
        ("\x1b[2J\x07\x00", "\\x1b[2J\\x07\\x00"),
        ("Käse 漢字", "Käse 漢字"),
        ("\udcff\u202e", "\\udcff\\u202e"),  # no UTF-8 in a name; text that runs backwards
    ],
)
def test_a_user_s_error_is_one_line_of_visible_characters(message: str, line: str) -> None:
    assert str(UserError(message)) == line
