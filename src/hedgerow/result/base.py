"""What all records share: no field unknown, one version of the schema."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 2
"""1: a check was true or false. Files of schema 1 are read as 2."""


class Record(BaseModel):
    """A part of a record; a field it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


class FileRecord(Record):
    """A record with a file of its own, which says by which schema it was written."""

    schema_version: int = Field(SCHEMA, ge=1, le=SCHEMA)

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, value: Any) -> Any:
        older = isinstance(value, dict) and value.get("schema_version") == 1
        return {**value, "schema_version": SCHEMA} if older else value


class Measure(Record):
    """An accuracy: exact count, share, 95 % Wilson interval, and how it was obtained."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float
    how: str
    seed: int
    seconds: float = 0.0
