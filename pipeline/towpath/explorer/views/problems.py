"""What is wrong with a request, as JSON for programs: `detail` says what, `field` and `position` say where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import JsonResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.explorer.state import Problem


def problem(status: int, detail: str, **more: object) -> JsonResponse:
    """Return a response with this status. `more` are further members of the JSON object."""
    return JsonResponse({"detail": detail, **more}, status=status)


def problem_of(problems: Sequence[Problem]) -> JsonResponse:
    """Return the first problem: with status 400 and a position for a query, and 422 for any other parameter."""
    first = problems[0]
    if first.field == "q":
        return problem(400, first.text, field="q", position=first.position)
    return problem(422, first.text, field=first.field)
