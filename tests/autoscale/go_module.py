"""Makes a Go module that can build what `go install` refuses. Pure: text in, text out.

`go install module@version` refuses a module whose go.mod replaces others, since replacements count in the main
module alone. So a module of our own takes that go.mod over, replacements included, requires the module, and is the main
one. Kubernetes is a case of its own: it replaces its own parts by folders of its repository, whose published versions
are named here in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_STAGED = re.compile(r"(?m)^\s*(?:replace )?(\S+) => \./staging/\S*$\n?")


def local_module(name: str, original: str, requires: tuple[str, str], *, staging: str | None = None) -> str:
    """The go.mod of a local module.

    `original` is the go.mod of the module that is to be built, `requires` its path and version. `staging` is the
    version under which the parts that it keeps in its own ./staging folder are published.
    """
    text = re.sub(r"(?m)^module .*$", f"module {name}", original, count=1)
    text = re.sub(r"(?ms)^tool \(.*?^\)\n", "", text)  # programs that only its own build needs
    text = re.sub(r"(?m)^tool .*\n", "", text)
    replaced = ""
    if staging is not None:
        parts = _STAGED.findall(text)
        for part in parts:
            text = re.sub(rf"(?m)^(\s*(?:require )?{re.escape(part)}) v0\.0\.0$", rf"\1 {staging}", text)
        text = _STAGED.sub("", text)
        text = re.sub(r"(?m)^replace \(\s*\)\n", "", text)
        replaced = "\nreplace (\n" + "".join(f"\t{part} => {part} {staging}\n" for part in parts) + ")\n"
    module, version = requires
    return f"{text.rstrip()}\n\nrequire {module} {version}\n{replaced}"


def tools_file(packages: Sequence[str]) -> str:
    """A Go file that imports the programs, so that `go mod tidy` keeps what they need."""
    imports = "".join(f'\t_ "{package}"\n' for package in packages)
    return f"//go:build tools\n\npackage tools\n\nimport (\n{imports})\n"


def staged_version(version: str) -> str:
    """v1.36.3 of Kubernetes has its parts published as v0.36.3."""
    return re.sub(r"^v1\.", "v0.", version)
