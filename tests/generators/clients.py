"""Each generator with its language: how its client is generated, compiled and run.

A client is made in a folder of its own and writes one JSON file for each request of `tests.generators.orders` there.
Options are those that the generators' manuals recommend for JSON: property names as they stand, maps as records.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.generators.packages import NODE, PYTHON, Tools, step

PROGRAMS: Final = Path(__file__).parent / "programs"


@dataclass(frozen=True, slots=True)
class Documents:
    """The published documents as files."""

    request: Path
    asyncapi: Path
    openapi: Path


@dataclass(frozen=True, slots=True)
class Client:
    """One generator and one language."""

    generator: str
    language: str
    document: str
    make: Callable[[Tools, Documents, Path], None]
    """Makes the client in a folder, compiles it, and has it write. Raises `StepFailedError`."""
    by_http: bool = False

    @property
    def name(self) -> str:
        """For the table and the folder."""
        return f"{self.generator} {self.language} {self.document}"


def _models(folder: Path, name: str = "models") -> Path:
    made = folder / name
    made.mkdir()
    return made


# --- TypeScript ------------------------------------------------------------------------------------------


def _typescript(tools: Tools, folder: Path, program: str) -> None:
    """Compile a program with all that it imports, strictly, and run it."""
    types = ["--types", "node", "--typeRoots", str(tools.node / "node_modules" / "@types")]
    target = ["--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10", "--outDir", "built"]
    step([*tools.node_tool("tsc"), "--strict", *types, *target, program], folder)
    step(["node", f"built/{Path(program).stem}.js"], folder)


def _interfaces(tools: Tools, folder: Path, imports: str, **replaced: str) -> None:
    program = (PROGRAMS / "interfaces.ts").read_text(encoding="utf-8").replace("/*IMPORTS*/", imports)
    places = {"TENANT": 'tenant: "studio", ', "DEADLINE": '"2027-01-31T12:00:00Z"', "POINTS": "points", **replaced}
    for place, text in places.items():
        program = program.replace(f"/*{place}*/", text)
    (folder / "interfaces.ts").write_text(program, encoding="utf-8")
    _typescript(tools, folder, "interfaces.ts")


def _modelina(tools: Tools, document: Path, language: str, folder: Path) -> None:
    program = tools.node / "modelina.mjs"  # beside node_modules, where Node looks for what it imports
    shutil.copy(PROGRAMS / "modelina.mjs", program)
    step(["node", str(program), str(document), language, str(_models(folder))], folder)


def _modelina_typescript(document: str) -> Callable[[Tools, Documents, Path], None]:
    def make(tools: Tools, documents: Documents, folder: Path) -> None:
        _modelina(tools, getattr(documents, document), "ts", folder)
        _interfaces(tools, folder, 'import type { GenerationRequest as Request } from "./models/GenerationRequest";')

    return make


def _quicktype_typescript(tools: Tools, documents: Documents, folder: Path) -> None:
    command = [*tools.node_tool("quicktype"), "-s", "schema", str(documents.request), "--lang", "ts", "--just-types"]
    step([*command, "--top-level", "GenerationRequest", "-o", "models.ts"], folder)
    imports = 'import type { GenerationRequest as Request } from "./models";'
    _interfaces(tools, folder, imports, DEADLINE='new Date("2027-01-31T12:00:00Z")')


def _openapi_typescript(tools: Tools, documents: Documents, folder: Path) -> None:
    step([*tools.node_tool("openapi-typescript"), str(documents.openapi), "-o", "models.ts"], folder)
    imports = 'import type { components } from "./models";\ntype Request = components["schemas"]["GenerationOrder"];'
    _interfaces(tools, folder, imports, TENANT="")


def _openapi_generator_fetch(tools: Tools, documents: Documents, folder: Path) -> None:
    _openapi_generator(tools, documents, folder, "typescript-fetch")
    shutil.copy(PROGRAMS / "fetch.ts", folder)
    _typescript(tools, folder, "fetch.ts")


# --- Java ------------------------------------------------------------------------------------------------


def _java(tools: Tools, folder: Path, program: str, sources: Sequence[Path]) -> None:
    """Compile a program with the sources that were generated, and run it."""
    shutil.copy(PROGRAMS / f"{program}.java", folder)
    files = [str(file) for source in sources for file in sorted(source.rglob("*.java"))]
    step(["javac", "-nowarn", "-cp", tools.class_path, "-d", "built", f"{program}.java", *files], folder)
    step(["java", "-cp", f"built:{tools.class_path}", program], folder)


def _modelina_java(document: str) -> Callable[[Tools, Documents, Path], None]:
    def make(tools: Tools, documents: Documents, folder: Path) -> None:
        _modelina(tools, getattr(documents, document), "java", folder)
        _java(tools, folder, "Modelina", [folder / "models"])

    return make


def _quicktype_java(tools: Tools, documents: Documents, folder: Path) -> None:
    made = _models(folder)
    command = [*tools.node_tool("quicktype"), "-s", "schema", str(documents.request), "--lang", "java"]
    kind = ["--package", "models", "--top-level", "GenerationRequest", "-o", str(made / "GenerationRequest.java")]
    step([*command, *kind], folder)
    _java(tools, folder, "Quicktype", [made])


def _openapi_generator_java(tools: Tools, documents: Documents, folder: Path) -> None:
    _openapi_generator(tools, documents, folder, "java", "--library", "native")
    _java(tools, folder, "OpenApiGenerator", [folder / "client" / "src" / "main"])


# --- Python ----------------------------------------------------------------------------------------------


def _python(tools: Tools, folder: Path, program: str) -> None:
    shutil.copy(PROGRAMS / program, folder)
    step([str(tools.python), program], folder)


def _datamodel(tools: Tools, documents: Documents, folder: Path) -> None:
    command = [*tools.python_tool("datamodel-codegen"), "--input", str(documents.request)]
    kind = [
        "--input-file-type",
        "jsonschema",
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--formatters",
        "builtin",
    ]
    step([*command, *kind, "--output", "models.py"], folder)
    _python(tools, folder, "datamodel.py")


def _openapi_python_client(tools: Tools, documents: Documents, folder: Path) -> None:
    command = [*tools.python_tool("openapi-python-client"), "generate", "--path", str(documents.openapi)]
    step([*command, "--output-path", "client", "--meta", "none"], folder)
    _python(tools, folder, "openapi_client.py")


def _openapi_generator(tools: Tools, documents: Documents, folder: Path, *kind: str) -> None:
    command = [*tools.python_tool("openapi-generator-cli"), "generate", "-i", str(documents.openapi), "-o", "client"]
    # Without this the class of a form is left out, and the Java call that takes JSON or a form still imports it.
    step([*command, "--global-property", "skipFormModel=false", "-g", *kind], folder)


def _openapi_generator_python(tools: Tools, documents: Documents, folder: Path) -> None:
    _openapi_generator(tools, documents, folder, "python")
    shutil.move(folder / "client" / "openapi_client", folder / "openapi_client")
    _python(tools, folder, "openapi_generator.py")


def _client(package: str, language: str, document: str, make: Callable[[Tools, Documents, Path], None]) -> Client:
    version = {**NODE, **PYTHON}[package]
    name = package.rpartition("/")[2].removesuffix("-cli")
    return Client(f"{name} {version}", language, document, make, by_http=document == "OpenAPI")


CLIENTS: Final = (
    _client("@asyncapi/modelina", "TypeScript", "JSON Schema", _modelina_typescript("request")),
    _client("@asyncapi/modelina", "TypeScript", "AsyncAPI", _modelina_typescript("asyncapi")),
    _client("@asyncapi/modelina", "Java", "JSON Schema", _modelina_java("request")),
    _client("@asyncapi/modelina", "Java", "AsyncAPI", _modelina_java("asyncapi")),
    _client("quicktype", "TypeScript", "JSON Schema", _quicktype_typescript),
    _client("quicktype", "Java", "JSON Schema", _quicktype_java),
    _client("datamodel-code-generator", "Python", "JSON Schema", _datamodel),
    _client("openapi-typescript", "TypeScript", "OpenAPI", _openapi_typescript),
    _client("openapi-python-client", "Python", "OpenAPI", _openapi_python_client),
    _client("openapi-generator-cli", "TypeScript", "OpenAPI", _openapi_generator_fetch),
    _client("openapi-generator-cli", "Java", "OpenAPI", _openapi_generator_java),
    _client("openapi-generator-cli", "Python", "OpenAPI", _openapi_generator_python),
)
