"""What becomes of roles: who has which one after a change. Arithmetic, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.students.registry import Roles
from gateway.students.vacancy import NO_STUDENT


def present(written: Roles | None, *, configured: str, serving: str) -> Roles:
    """The roles at the start; a canary answers when it is ready."""
    now = {"configured": configured, "serving": serving}
    if written is None:
        return Roles.model_validate(now)
    return written.model_copy(update=now)


def succeeded(roles: Roles, name: str, *, previous: str | None, launched: float | None) -> Roles:
    """These roles where that bundle serves at once, and a canary and a proposal have ended.

    `launched`: when it got its first requests; None: it is no new one.
    """
    taken = {"serving": name, "previous": previous, "launched": launched}
    ended = {"canary": None, "proposal": None}
    return roles.model_copy(update=taken | ended)


def reconfigured(roles: Roles, named: str) -> Roles:
    """These roles where the settings name another bundle than they did, at a start: it serves."""
    roles = roles.model_copy(update={"configured": named})
    if roles.serving == named:
        return roles
    return succeeded(trusted(roles, named), named, previous=roles.serving, launched=None)


def sent_back(roles: Roles, name: str) -> Roles:
    """The same where that bundle was rolled back: nobody promotes it but a person."""
    if name == NO_STUDENT or name in roles.sent_back:
        return roles
    return roles.model_copy(update={"sent_back": (*roles.sent_back, name)})


def trusted(roles: Roles, name: str) -> Roles:
    """These roles where somebody lets that bundle serve, whatever it was sent back for."""
    left = tuple(each for each in roles.sent_back if each != name)
    return roles.model_copy(update={"sent_back": left})


def heirs(roles: Roles) -> Iterator[str]:
    """Who may serve in place of the student that does, the best first.

    Nobody who was sent back: an alarm must not undo what another one did.
    """
    before = roles.previous
    if before is not None and before not in {NO_STUDENT, roles.serving, *roles.sent_back}:
        yield before
    yield NO_STUDENT
