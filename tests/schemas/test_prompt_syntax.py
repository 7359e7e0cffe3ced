"""Syntax of other tools in prompts is found, prose is left alone, and no prompt takes long to be looked through."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.schemas.prompts.syntax import SHOWN_MAX, warnings_of


@pytest.mark.parametrize(
    ("prompt", "quoted"),
    [
        ("a (red:1.3) cat", "(red:1.3)"),
        ("a (red: 1.3 ) cat", "(red: 1.3 )"),
        ("(x:+.5)", "(x:+.5)"),
        ("(x:-1)", "(x:-1)"),
        ("(x:1,3)", "(x:1,3)"),
        ("a:b (c:d:1.3)", "(c:d:1.3)"),
        (r"(a\):1.2)", r"(a\):1.2)"),
        (":) a smile (smile:1.2)", "(smile:1.2)"),
        ("(2girls:1.2)", "(2girls:1.2)"),
        ("((masterpiece)), best", "((masterpiece))"),
        ("(((best quality)))", "(((best quality)))"),
        ("a [red] cat", "[red]"),
        ("a [red:blue:0.5] cat", "[red:blue:0.5]"),
        ("a [red|blue] cat", "[red|blue]"),
        ("{{masterpiece}}", "{{masterpiece}}"),
        ("a {red|blue|2::green} cat", "{red|blue|2::green}"),
        ("on a __colour__ ground", "__colour__"),
        ("__clothes/hats*__", "__clothes/hats*__"),
        ("a cat BREAK a dog", "BREAK"),
        ("a cat, BREAK, RED dog", "BREAK"),
        ("a BREAK BREAK b", "BREAK"),
        ("a cat AND a dog", "AND"),
        ("embedding:bad-hands-5, a cat", "embedding:bad-hands-5"),
        ("<lora:ink:0.8> a cat", "<lora:ink:0.8>"),
        ("<LoRA:ink> a cat", "<LoRA:ink>"),
        ("<lyco:ink:1:0.5> a cat", "<lyco:ink:1:0.5>"),
        ("<hypernet:x:1>", "<hypernet:x:1>"),
        ("<random:red,blue> cat", "<random:red,blue>"),
        ("a (tall cat)++", ")++"),
        ("a (tall cat)1.5 dog", ")1.5"),
        ('("a cat", "a dog").blend(1, 1)', ").blend("),
        ("a cat --ar 16:9 --v 6", "--ar"),
        ("hot::2 dog", "::2"),
    ],
)
def test_syntax_is_quoted(prompt: str, quoted: str) -> None:
    [warning] = warnings_of(prompt)
    assert warning.startswith("prompt: read as plain text, not as syntax of another tool: ")
    assert quoted in warning
    assert ("`adapter`" in warning) == ("<l" in prompt.lower())


@pytest.mark.parametrize(
    "prompt",
    [
        "a man (old, tired) in a hat",
        "portrait (close-up) of a woman, 85mm f/1.8",
        "wide screen (16:9), at half past ten (10:30)",
        "a page of a book (John 3:16)",
        "a smile :) and a wink ;) and a frown :(",
        r"\(escaped\) \[brackets\]",
        "(note: a remark)",
        "(scene 12)",
        "a poster with the words ROCK AND ROLL",
        "a neon sign that reads TAKE A BREAK TODAY",
        'a sign that says "BREAK"',
        "a break dancer and a breakfast, AND1 shoes, BREAKFAST",
        "C++ code on a screen, std::vector",
        "fill in the blank: ____ and __",
        "snake_case_name and __",
        "an em dash -- no, two -- and a range 1--2",
        "a < b > c, <b>bold</b>",
        "embedding: the art of it",
        "f(x) = ((1 + 2))",
        "{} [] () (()) {1}",
        "a dancer on a stage, studio light",
        "",
    ],
)
def test_prose_is_left_alone(prompt: str) -> None:
    assert warnings_of(prompt) == ()


def test_one_warning_quotes_few_pieces_in_their_order() -> None:
    prompt = " ".join(f"(w{number}:1.{number})" for number in range(8)) + " <lora:ink:1>"
    assert warnings_of(prompt, "negative_prompt") == (
        "negative_prompt: read as plain text, not as syntax of another tool: (w0:1.0), (w1:1.1), (w2:1.2), (w3:1.3), "
        f"(w4:1.4) and {9 - SHOWN_MAX} more. A LoRA is asked for by `adapter`.",
    )


@given(st.text(alphabet=st.sampled_from("([{<)]}>:.1a \\_|-+BREAKND\n\ud800,"), max_size=300))
def test_whatever_the_prompt_is_the_warning_is_a_short_line(prompt: str) -> None:
    for warning in warnings_of(prompt):
        assert warning.isprintable()
        assert len(warning) < 500


@pytest.mark.parametrize(
    "piece",
    ["(", "[", "{", "((a", "(a:", ":1", "\\", "__a", "<lora:", "BREAK ", "embedding:", "--v ", ").", "::", "( "],
)
def test_the_time_grows_with_the_length_alone(piece: str) -> None:
    def seconds(characters: int) -> float:
        prompt = piece * (characters // len(piece))
        best = float("inf")
        for _ in range(5):
            begun = time.process_time()
            warnings_of(prompt)
            best = min(best, time.process_time() - begun)
        return best

    # Ten times as long: ten times the time, where a square would be a hundred.
    assert seconds(40_000) < 40 * seconds(4_000)
