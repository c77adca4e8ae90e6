import pytest

from pipelines.foundations.video import captions


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A 3, moving up and to the left.", ["a", "3", "moving", "up", "and", "to", "the", "left"]),
        ("  It's  snowing\tin_Zürich!", ["it's", "snowing", "in", "zürich"]),
        ("…", []),
    ],
)
def test_punctuation_and_case_only_part_words(caption: str, words: list[str]) -> None:
    assert captions.words(caption) == words


def test_rows_are_padded_cut_and_know_what_they_do_not_know() -> None:
    known = captions.vocabulary(["a b", "c a"])
    assert known == [captions.PAD, captions.UNKNOWN, "a", "b", "c"]
    rows = captions.encode(["c", "a b c", "", "z A"], known, 2)
    assert rows.tolist() == [[4, 0], [2, 3], [0, 0], [1, 2]]


def test_a_prompt_has_room_for_at_least_one_word() -> None:
    assert captions.longest([]) == captions.longest([""]) == 1
    assert captions.longest(["a b", "c"]) == 2
