"""The settings of what pictures say of themselves: generation parameters and content credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from darkroom.schemas.settings.services import SECTION


class ProvenanceSettings(BaseModel):
    """The words in picture files. That a model made them stands in every picture, whatever is set here."""

    model_config = SECTION

    parameters: bool = Field(
        default=True,
        description="Write into each picture how it was made: the request and the `parameters` line that other tools "
        "read. false keeps prompts, which may be personal data, and request ids out of the files.",
    )
    watermark: bool = Field(
        default=False,
        description="Put an imperceptible mark into the pixels of each picture of 256 x 256 or more: it lives through "
        "JPEG, resizing and cropping, and `darkroom provenance detect` finds it. Changes pictures by about a level of "
        "255; simulated devices have none.",
    )
    cert_file: Path | None = Field(
        default=None,
        description="PEM certificates for C2PA content credentials, the signer's first and the authorities that vouch "
        "for it after it; pictures are not signed when not set. Needs darkroom[provenance].",
    )
    key_file: Path | None = Field(
        default=None,
        description="The certificate's private key in PEM, without a password: P-256, P-384 or P-521 (ES256, ES384, "
        "ES512), RSA (PS256) or Ed25519.",
    )
    signer: str | None = Field(
        default=None,
        max_length=200,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="In place of key_file: a function of your own, module:function, that takes bytes and returns their "
        "signature by the certificate's key, for keys in a KMS (consumer/provenance/remote_signer.py has its form).",
    )
    timestamp_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s]+$",
        description="An RFC 3161 timestamp authority, http:// or https://, whose word dates each signature, so that it "
        "outlives the certificate. While it does not answer, pictures are signed without and a warning says so.",
    )
    mode: Literal["required", "best_effort"] = Field(
        default="required",
        description="required: no picture is stored unsigned; what cannot be signed waits until it can be, and a "
        "worker does not start with a certificate that is no good. best_effort: pictures are then stored unsigned, "
        "and a warning in the completion says so.",
    )
    request_digest: bool = Field(
        default=False,
        description="Name the request in the credentials by the SHA-256 of its tenant, a slash and its id, for whoever "
        "knows them to look it up.",
    )

    @model_validator(mode="after")
    def _pair(self) -> ProvenanceSettings:
        if self.key_file is not None and self.signer is not None:
            raise ValueError("key_file and signer are two ways to sign: set one of them")
        if (self.cert_file is None) != (self.key_file is None and self.signer is None):
            raise ValueError("cert_file and key_file (or signer) belong together: set both, or neither")
        if self.timestamp_url is not None and self.cert_file is None:
            raise ValueError("timestamp_url dates signatures, and nothing is signed: set cert_file and key_file, too")
        return self
