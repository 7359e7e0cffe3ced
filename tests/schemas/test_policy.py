"""Proves that a blocked word is found however it is dressed up, that innocent sentences pass, in linear time."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from darkroom.schemas.prompts.lookalikes import _LOOKS_LIKE, _READINGS, plain, readings
from darkroom.schemas.prompts.policy import PolicyUnreadable, PromptPolicy, Rejection, parse_policy

BLOCKED = {
    "nude": "sexual", "penis": "sexual", "ass": "sexual", "sex": "sexual", "porn*": "sexual", "child bride": "minors",
    "*spank*": "violence", "behead": "violence", "hell": "language", "cunt*": "language", "голая": "sexual",
    "裸体": "sexual",
}  # fmt: skip
EXCEPTIONS = ["scunthorpe", "samsung a55", "nude lipstick", "hell's kitchen"]
POLICY = PromptPolicy("7", list(BLOCKED.items()), EXCEPTIONS)

DRESSED = {
    "plain": "a nude figure",
    "capitals": "NUDE",
    "at the end of a sentence": "a figure, nude!",
    "accents": "n\u0308u\u0301d\u0327e\u0302",
    "composed accents": "ñüdé",
    "full width": "ｎｕｄｅ",
    "mathematical letters": "𝓷𝓾𝓭𝓮",
    "small capitals": "ɴᴜᴅᴇ",
    "circled and squared": "ⓝ🅄🅓🄴",
    "flag letters": "🇳🇺🇩🇪",
    "cyrillic and armenian look-alikes": "пսԁе",
    "greek look-alikes": "реηis".replace("η", "n"),
    "digits for letters": "nud3",
    "a number at the end": "nude1",
    "signs for letters": "a$s",
    "most of it digits": "p3n15",
    "zero-width characters": "n\u200bu\u200cd\u2060e",
    "soft hyphens": "n\u00adu\u00adde",
    "right-to-left marks": "nu\u202ede",
    "a struck-out word": "n\u0336u\u0336d\u0336e\u0336",
    "spaced": "n u d e",
    "spaced among other words": "a n u d e woman",
    "widely spaced": "n   u \n d\te",
    "dotted": "n.u.d.e",
    "hyphenated": "nu-de",
    "commas between letters": "n,u,d,e",
    "an apostrophe": "n'ude",
    "one letter set apart": "n ude",
    "repeated": "nuuuuuude",
    "spaced and repeated": "nn uu dd ee",
    "spaced, of digits, at a sentence's end": "p e n 1 5!",
    "several tricks at once": "Ｎ.u\u0301.\u200bd . 3",
    "a phrase": "a child bride",
    "a phrase over a line's end": "child\nbride",
    "a phrase run together": "childbride",
    "a phrase with other signs": "child_/_bride",
    "a beginning": "pornographic",
    "a beginning, dressed up": "p0rn0graphic",
    "within a word": "backspanking",
    "cyrillic": "Голая женщина",
    "chinese, which has no spaces": "一个裸体的人",
    "the possessive": "a nude's back",
    "beside an exception": "scunthorpe cunt",
    "half in an exception": "a nude lipstick on a nude",
}
INNOCENT = [
    "the pen is mightier than the sword",
    "pen 1 is red, pen 2 is blue; the pen ! is broken",
    "Scunthorpe United at home, a crowd in Essex and Sussex, grass and glass, a classic bass assembly",
    "he'll sing and she'll dance; we'll see. The dog's ex-owner waits",
    "a shell on the beach, hello kitty, othello and a seashell, michelle",
    "455 people, 5 ex-soldiers, route 69, an a4 sheet, 4k, 8k, f/1.8, 50mm",
    "nudge, denude the tree, a mood of as soon as possible",
    "a child and a bridegroom, children at the bridge",
    "samsung a55 on a table",
    "a nude lipstick, close-up",
    "a diner in hell's kitchen",
    "masterpiece, best quality, (red hair:1.2), [blue|green] eyes, 1girl, solo, looking at viewer",
    "peninsula at dawn, opening night, a pen, ispahan carpets",
    "ein Käse auf dem Teller, la clase de español, été à la plage, Москва зимой, 東京の夜",
    "A, B, C, D, E: five letters on a blackboard; x y z axes; i a m; u s army",
]


@pytest.mark.parametrize("case", DRESSED)
def test_dressed_up_words_are_found(case: str) -> None:
    assert POLICY.judge(DRESSED[case]) is not None


@pytest.mark.parametrize("sentence", INNOCENT)
def test_innocent_sentences_pass(sentence: str) -> None:
    assert POLICY.judge(sentence) is None


def test_a_rejection_names_category_and_version_and_never_the_word() -> None:
    rejection = POLICY.judge("a child bride in white")
    assert rejection == Rejection("minors", "7")
    assert "minors" in str(rejection)
    assert "7" in str(rejection)
    assert "bride" not in str(rejection)


def test_a_word_that_is_repeated_letters_of_another_can_be_excepted() -> None:
    block = [("god", "language")]
    assert PromptPolicy("1", block, []).judge("a good day")
    assert PromptPolicy("1", block, ["good"]).judge("a good day") is None
    assert PromptPolicy("1", block, ["good"]).judge("a goood day"), "an exception is written plainly"


# --- Properties -----------------------------------------------------------------------------------------

SIGNS = st.sampled_from(["-", ".", "_", "*", "~", "/", "\\", "·", "^", "="])
SPACES = st.sampled_from([" ", "  ", "\n", "\t", ", ", " - ", " . ", "\u00a0", "\u3000"])
MARKS = st.text(st.sampled_from("\u0300\u0301\u0308\u0327\u0336\u200b\u200d\u2060\u00ad\ufe0f"), max_size=3)
WORDS = st.sampled_from(["nude", "penis", "sex", "behead", "hell"])


def _looks(letter: str) -> list[str]:
    """Everything that looks like a letter, itself and its styled forms included."""
    alike = [letter, letter.upper(), chr(ord(letter) + 0xFEE0), chr(0x1D41A + ord(letter) - ord("a"))]
    alike += [one for some, letters in _LOOKS_LIKE.items() if letters == letter for one in some]
    return alike + [sign for sign, letters in _READINGS.items() if letter in letters]


@st.composite
def dressed(draw: st.DrawFn) -> str:
    word = draw(WORDS)
    spacing = draw(st.sampled_from(["none", "every letter", "some signs"]))
    separator = draw(SPACES) if spacing == "every letter" else draw(SIGNS)
    undressed = draw(st.integers(0, len(word) - 1))
    text = ""
    for index, letter in enumerate(word):
        look = letter if index == undressed else draw(st.sampled_from(_looks(letter)))
        text += look * draw(st.sampled_from([1, 1, 1, 2, 4])) + draw(MARKS)
        if index + 1 < len(word) and (spacing == "every letter" or (spacing == "some signs" and draw(st.booleans()))):
            text += separator
    before, after = draw(st.sampled_from(["", "a picture of ", "(", "1 "])), draw(st.sampled_from(["", " figure", "!"]))
    return before + text + after


@settings(max_examples=150, deadline=None)
@given(dressed())
def test_random_decoration_is_always_found(text: str) -> None:
    assert POLICY.judge(text) is not None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
@example("ﷺ K ſ ϲ ŀ İ ß Ａ\u0301")
def test_normalisation_is_idempotent(text: str) -> None:
    assert plain(plain(text)) == plain(text)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("nude5x $1!-'.,\u0301п裸体ss "), max_size=40))
def test_any_text_can_be_judged(text: str) -> None:
    assert POLICY.judge(text) in (None, *(Rejection(category, "7") for category in BLOCKED.values()))


def test_every_entry_of_the_tables_does_what_it_says() -> None:
    for some, letters in _LOOKS_LIKE.items():
        assert {plain(one) for one in some} == {letters}
    assert all(plain(sign) == sign and readings(sign) == letters for sign, letters in _READINGS.items())
    assert all(unicodedata.normalize("NFKD", sign) == sign for sign in _READINGS)


@pytest.mark.parametrize("piece", ["a", "1", "n u d ", "n1", "nud", "\u0301", "'s ", "nu-d "])
def test_time_is_linear_in_the_prompt(piece: str) -> None:
    """The processor's own time: other work on the machine does not count."""

    def cost_s(characters: int) -> float:
        text = (piece * characters)[:characters]
        least = float("inf")
        for _ in range(3):
            started = time.process_time()
            POLICY.judge(text)
            least = min(least, time.process_time() - started)
        return least

    assert cost_s(8_000) < 40 * max(cost_s(1_000), 0.0003), "eight times the text: were it quadratic, 64 times"


# --- As a file ------------------------------------------------------------------------------------------

FILE = """
version = "2026-11"
exceptions = ["scunthorpe"]
classifier = "our_rules:classify"
on_classifier_error = "allow"

[[block]]
category = "sexual"
words = ["nude", "cunt*"]
"""


def test_the_rules_for_pictures() -> None:
    rules = parse_policy(
        'version = "1"\n[pictures]\nurl = "http://x:1/y"\nblock = ["gore"]\nmode = "best_effort"'
    ).pictures
    assert rules is not None
    assert (rules.url, rules.is_required, rules.blocks("gore"), rules.blocks("sexual")) == (
        "http://x:1/y",
        False,
        True,
        False,
    )
    every = parse_policy('version = "1"\n[pictures]\nsafety_checker = "/models/safety"').pictures
    assert every is not None
    assert (every.is_required, every.blocks("anything")) == (True, True)
    assert parse_policy('version = "1"').pictures is None


def test_a_policy_file() -> None:
    policy = parse_policy(FILE)
    assert policy.judge("nude") == Rejection("sexual", "2026-11")
    assert policy.judge("scunthorpe") is None
    assert (policy.classifier, policy.rejects_on_classifier_error) == ("our_rules:classify", False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = ", "not TOML"),
        ("", "version"),
        ("version = 3", "version"),
        ('version = "1"\nwords = ["x"]', "no words"),
        ('version = "1"\n[[block]]\ncategory = "A b"\nwords = []', "block 1"),
        ('version = "1"\n[[block]]\ncategory = "a"\nwords = "nude"', "words of block 1"),
        ('version = "1"\n[[block]]\ncategory = "a"\nwords = ["..."]', "fewer than two letters"),
        ('version = "1"\n[[block]]\ncategory = "a"\nwords = ["x"]', "fewer than two letters"),
        ('version = "1"\n[[block]]\ncategory = "a"\nname = "b"', "no name"),
        ('version = "1"\nblock = 3', "[[block]]"),
        ('version = "1"\nexceptions = ["-"]', "has no letters"),
        ('version = "1"\nclassifier = "os.system"', "module:function"),
        ('version = "1"\non_classifier_error = "ignore"', "on_classifier_error"),
        ('version = "1"\npictures = 3', "[pictures]"),
        ('version = "1"\n[pictures]', "one of classifier, url, safety_checker"),
        ('version = "1"\n[pictures]\nurl = "http://x"\nclassifier = "a:b"', "one of classifier"),
        ('version = "1"\n[pictures]\nurl = "ftp://x"', "http:// or https://"),
        ('version = "1"\n[pictures]\nurl = "http://x:99999/"', "http:// or https://"),
        ('version = "1"\n[pictures]\nclassifier = "a/b"', "module:function"),
        ('version = "1"\n[pictures]\nclassifier = 3', "must be text"),
        ('version = "1"\n[pictures]\nclassifier = "a:b"\nblock = "gore"', "list of at most"),
        ('version = "1"\n[pictures]\nclassifier = "a:b"\nblock = ["Gore"]', "a-z0-9_"),
        ('version = "1"\n[pictures]\nclassifier = "a:b"\nmode = "maybe"', "best_effort"),
        ('version = "1"\n[pictures]\nclassifier = "a:b"\nthreshold = 1', "no threshold"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(PolicyUnreadable) as raised:
        parse_policy(text)
    assert says in str(raised.value)
