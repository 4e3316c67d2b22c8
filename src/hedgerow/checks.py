"""An integrity check: whether numbers can be relied on, and by what evidence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Outcome = Literal["pass", "warn", "fail"]


class Check(BaseModel):
    """The outcome of a check; `warn`: read the number, but nothing is proved wrong."""

    model_config = ConfigDict(extra="forbid")

    outcome: Outcome
    number: str = Field("", description="what was counted")
    how: str = Field("", description="how it was obtained")

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, value: Any) -> Any:
        return {"outcome": "pass" if value else "fail"} if isinstance(value, bool) else value

    @property
    def passed(self) -> bool:
        """True if nothing was found."""
        return self.outcome == "pass"

    @property
    def failed(self) -> bool:
        """True if the numbers beside it are not to be relied on."""
        return self.outcome == "fail"


def passing(good: bool, number: str = "", how: str = "") -> Check:
    """Return a check that can only pass or fail."""
    return Check(outcome="pass" if good else "fail", number=number, how=how)


def graded(value: float, *, warn: float, fail: float, number: str, how: str) -> Check:
    """Return a check of a value that warns above one limit and fails above another; NaN fails."""
    outcome: Outcome = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Check(outcome=outcome, number=number, how=how)


def of_schema_1(value: Any) -> Any:
    """Return a raw record with checks, in which a separate table `numbers` is joined to them as it is today."""
    if not isinstance(value, dict) or not isinstance(value.get("checks"), dict):
        return value
    numbers = value.get("numbers") or {}
    checks = {
        name: {"outcome": "pass" if found else "fail", "number": numbers.get(name, "")}
        if isinstance(found, bool)
        else found
        for name, found in value["checks"].items()
    }
    return {key: found for key, found in value.items() if key != "numbers"} | {"checks": checks}
