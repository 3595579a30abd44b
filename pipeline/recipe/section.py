"""What every section of a recipe has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

EXECUTION = {"execution_only": True}


class Section(BaseModel):
    """A part of the recipe. Unknown keys are refused, values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def result_fields(self) -> dict[str, Any]:
        """The values that can change a result; where and how fast it is computed is left out of stage keys."""
        fields = type(self).model_fields
        kept = {name for name, info in fields.items() if info.json_schema_extra != EXECUTION}
        return self.model_dump(mode="json", include=kept)


def execution(default: Any, description: str, **bounds: Any) -> Any:
    """A field that says how to run, not what to compute: changing it reuses finished stages."""
    return Field(default, description=description, json_schema_extra=dict(EXECUTION), **bounds)
