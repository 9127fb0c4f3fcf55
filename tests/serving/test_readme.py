"""The README's table of settings is the settings'."""

from __future__ import annotations

from pathlib import Path

from mlplatform_serving.__main__ import variable
from mlplatform_serving.settings import Settings

README = Path(__file__).parents[2] / "serving" / "README.md"


def table() -> str:
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        names = " or ".join(f"`{each}`" for each in variable(name, field).split(", "))
        default = "" if field.default in (None, "", ()) else f"`{field.default}`"
        lines.append(f"| {names} | {default} | {field.description} |")
    return "\n".join(lines)


def test_every_setting_is_told() -> None:
    text = README.read_text(encoding="utf-8")
    _, _, rest = text.partition("<!-- settings -->\n")
    assert rest.partition("\n<!-- end of settings -->")[0] == table()
