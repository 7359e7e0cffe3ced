"""Proves how a weighted prompt is read, beside what Stable Diffusion web UI's parser makes of the same text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.schemas.prompts.weighted import PromptSyntaxError, clamped, parse_weighted

ONE = 1.0
SQUARE = 1 / 1.1

PROMPTS: dict[str, list[list[tuple[str, float]]]] = {
    "a (red:1.3) cat": [[("a ", 1), ("red", 1.3), (" cat", 1)]],
    "a [red] cat": [[("a ", 1), ("red", SQUARE), (" cat", 1)]],
    "((a:1.2) b:1.5)": [[("a", 1.8), (" b", 1.5)]],
    "((a:1.2))": [[("a", 1.32)]],
    "((((x))))": [[("x", 1.4641)]],
    "(x": [[("x", 1.1)]],
    "x) (y:1.2)": [[("x) ", 1), ("y", 1.2)]],
    "(x:)": [[("x:", 1.1)]],
    r"\(x\) (y)": [[("(x) ", 1), ("y", 1.1)]],
    "(a BREAK b)": [[("a", 1.1)], [("b", 1.1)]],
    "a BREAK BREAK b": [[("a", 1)], [("b", 1)]],
    "BREAK a": [[("a", 1)]],
    "a BREAK": [[("a", 1)]],
    "aBREAKb, BREAKFAST": [[("aBREAKb, BREAKFAST", 1)]],
    "(un)balanced": [[("un", 1.1), ("balanced", 1)]],
    "(x: 1.3 )": [[("x", 1.3)]],
    "(x:+.5)": [[("x", 0.5)]],
    "(x:1.3": [[("x:1.3", 1.1)]],
    "[x:1.3)": [[("x:1.3)", SQUARE)]],
    "a:b (c:d:1.3)": [[("a:b ", 1), ("c:d", 1.3)]],
    "(a,(b:1.1):1.3)": [[("a,", 1.3), ("b", 1.43)]],
    r"(a\):1.2)": [[("a)", 1.2)]],
    "(a [b) c]": [[("a ", 1.1), ("b", 1.0), (" c", SQUARE)]],
    "()": [[("", 1)]],
    "": [[("", 1)]],
    r"a\b": [[(r"a\b", 1)]],
    "(x:1.2.3)": [[("x:1.2.3", 1.1)]],
    "(x:.)": [[("x:.", 1.1)]],
    "(x:1e1)": [[("x:1e1", 1.1)]],
    "(x:nan)": [[("x:nan", 1.1)]],
    "(x:1,3)": [[("x:1,3", 1.1)]],
    "(cat:-1)": [[("cat", -1.0)]],
    ":) (smile:1.2)": [[(":) ", 1), ("smile", 1.2)]],
    "sand and AND_gate": [[("sand and AND_gate", 1)]],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_read(prompt: str) -> None:
    read = parse_weighted(prompt)
    assert [[run.text for run in section] for section in read.sections] == [
        [text for text, _ in section] for section in PROMPTS[prompt]
    ]
    weights = [run.weight for section in read.sections for run in section]
    assert weights == pytest.approx([weight for section in PROMPTS[prompt] for _, weight in section])


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a [cat:dog:0.5]", "changes over the steps"),
        ("[x:1.3]", "changes over the steps"),
        ("[(cat:1.2):0.5]", "changes over the steps"),
        ("a [cat|dog] on a mat", "alternates"),
        ("a cat AND a dog", "AND"),
    ],
)
def test_what_changes_over_the_steps_is_refused_by_name(prompt: str, names: str) -> None:
    with pytest.raises(PromptSyntaxError, match=names):
        parse_weighted(prompt)


@pytest.mark.parametrize(
    ("prompt", "warns"), [("(x", "not closed"), ("(x:1,3)", "decimal comma"), ("[x", "not closed")]
)
def test_what_is_likely_an_error_is_warned_about(prompt: str, warns: str) -> None:
    assert any(warns in warning for warning in parse_weighted(prompt).warnings)


def test_weights_beyond_the_bounds_are_clamped_and_told() -> None:
    read = clamped(parse_weighted("(a:3) (b:-1) (c:1.5)"))
    assert [run.weight for run in read.sections[0]] == [2.0, 1.0, 0.0, 1.0, 1.5]
    assert "clamped" in read.warnings[0]
    deep = parse_weighted("(red fox, " * 30 + "end")
    assert [run.weight for run in deep.sections[0]] == pytest.approx([1.1**n for n in range(1, 31)])


@given(st.text(alphabet=st.sampled_from(list("ab ,:.1()[]\\|BREAK")), max_size=60))
def test_the_parser_is_total_and_keeps_every_plain_word(prompt: str) -> None:
    try:
        read = parse_weighted(prompt)
    except PromptSyntaxError:
        return
    assert read.sections
    assert all(abs(run.weight) < float("inf") for section in read.sections for run in section)


@given(
    st.text(alphabet=st.characters(exclude_characters="()[]\\:|"), max_size=60).filter(lambda text: "AND" not in text)
)
def test_text_without_marks_stays_as_it_is(prompt: str) -> None:
    if "BREAK" not in prompt:
        assert "".join(run.text for run in parse_weighted(prompt).sections[0]) == (prompt if prompt.strip() else "")
