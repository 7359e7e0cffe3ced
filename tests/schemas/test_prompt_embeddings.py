"""Proves which textual inversions a prompt names, and that digests name their files."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.prompts.embeddings import EmbeddingName, embeddings_in, is_embedding_name, split_embeddings
from darkroom.schemas.prompts.syntax import warnings_of
from darkroom.schemas.wire.digests import picture_text, render_digest, request_digest


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a lake", ["a lake"]),
        ("", []),
        ("embedding:mood", [EmbeddingName("mood")]),
        ("a embedding:mood, lake", ["a ", EmbeddingName("mood"), ", lake"]),
        ("embedding:bad-hands_5.", [EmbeddingName("bad-hands_5"), "."]),
        ("embedding:v1.5 end", [EmbeddingName("v1.5"), " end"]),
        ("Embedding:Mood.safetensors b", [EmbeddingName("Mood"), " b"]),
        ("embedding:easynegative.pt", [EmbeddingName("easynegative")]),
        ("embedding:U\u0308bung", [EmbeddingName("\u00dc" + "bung")]),
        ("(embedding:mood:1.2)", ["(", EmbeddingName("mood"), ":1.2)"]),
        ("embedding:a,embedding:b", [EmbeddingName("a"), ",", EmbeddingName("b")]),
        ("embedding: the art", ["embedding: the art"]),
        ("reembedding:mood", ["reembedding:mood"]),
        ("embedding:(mood:1.2)", ["embedding:(mood:1.2)"]),
    ],
)
def test_what_a_prompt_names(text: str, pieces: list[str | EmbeddingName]) -> None:
    assert list(split_embeddings(text)) == pieces


def test_only_weighted_prompts_name_any() -> None:
    prompts = ("embedding:a embedding:b embedding:a", "embedding:c")
    assert embeddings_in(*prompts, "weighted") == ("a", "b", "c")
    assert embeddings_in(prompts[0], None, "weighted") == ("a", "b")
    assert embeddings_in(*prompts, "plain") == ()
    assert embeddings_in("(embedding:1.5) (embedding:v1.5:0.5) embedding:a\\(b", None, "weighted") == ("v1.5", "a")


def test_names_that_prompts_can_have() -> None:
    assert all(is_embedding_name(name) for name in ("mood", "bad-hands-5", "v1.5", "水墨", "_x", "n" * 128))
    assert not any(is_embedding_name(name) for name in ("two words", "x.pt", "end.", "a+b", "", "-x", "n" * 129))


def test_no_text_is_lost_between_embeddings() -> None:
    text = "embedding:a- b " * 1000
    pieces = list(split_embeddings(text))
    names = [piece for piece in pieces if isinstance(piece, EmbeddingName)]
    assert names == [EmbeddingName("a-")] * 1000
    assert "".join(piece if isinstance(piece, str) else f"embedding:{piece.name}" for piece in pieces) == text


def test_the_digest_names_the_files_and_no_other_requests_changes() -> None:
    def asked(**fields: Any) -> GenerationRequest:
        return GenerationRequest(request_id="r", prompt="embedding:mood lake", **fields)

    def painted(request: GenerationRequest, digest: str) -> str:
        return render_digest(request, "m", "2", adapter_digests={"mood": digest, "ink": "sha256:9"})

    weighted = asked(prompt_syntax="weighted")
    assert painted(weighted, "sha256:1") != painted(weighted, "sha256:2")
    assert painted(asked(), "sha256:1") == painted(asked(), "sha256:2")
    named = picture_text(weighted, {}, adapter_digests={"mood": "sha256:1", "ink": "sha256:9"})
    assert named["embeddings"] == {"mood": "sha256:1"}
    assert "embeddings" not in picture_text(asked(), {})
    assert request_digest(weighted) == request_digest(asked(prompt_syntax="weighted"))


def test_a_plain_prompt_that_names_one_is_told_of_the_way() -> None:
    (plain,) = warnings_of("a embedding:mood lake")
    assert plain == (
        "prompt: read as plain text, not as syntax of another tool: embedding:mood. "
        "A textual inversion is read where `prompt_syntax` is weighted."
    )
    assert warnings_of("a embedding:mood lake", is_weighted=True) == ()
    assert warnings_of("<embedding:mood> lake", is_weighted=True), "another tool's tag"
