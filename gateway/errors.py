"""Every error that Understudy raises on purpose.

    UnderstudyError
    ├── UsageError             something a person wrote is wrong: exit status 2
    │   ├── SettingsError        understudy.yaml or the environment
    │   ├── RecipeError          recipe.yaml
    │   ├── DataError            a data file, a column, a label
    │   └── BundleError          a bundle that cannot be trusted or understood
    │       ├── BundleMissing      there is no bundle at that place
    │       ├── BundleCorrupt      bytes differ from the manifest, a file is missing or extra
    │       ├── BundleMismatch     parts that do not belong together (tokenizer, shapes, golden)
    │       └── BundleUnsupported  a schema version or a feature that this version cannot read
    ├── RequestError           what a client sent cannot be answered: its own status over HTTP
    │   ├── Malformed            not JSON, or JSON that is refused
    │   ├── Invalid              JSON of the wrong shape, or a value out of its limits
    │   ├── TooLarge             a body or a list above its limit
    │   ├── Unauthorized         no key, or one that is not known
    │   └── UnknownTask          no task of that name
    ├── ServingError           the gateway cannot answer now
    │   ├── Overloaded           a bounded queue is full
    │   ├── Draining             the process is on its way out
    │   └── StudentFailed        the student raised, or gave numbers that are not finite
    ├── TeacherError           the teacher gave no usable answer
    │   ├── TeacherUnavailable   refused, down, or over its bounds
    │   └── TeacherTimeout       no answer before the deadline
    └── StageFailed            an offline stage ended without its result; exit status 1

`code` is stable and may be matched by programs; `mend` says what to do about it.
Only gateway/api/problems.py knows which HTTP status an error becomes.
"""

from __future__ import annotations

from typing import ClassVar


class UnderstudyError(Exception):
    """What went wrong, and how to mend it."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.mend}" if self.mend else self.message


class UsageError(UnderstudyError):
    """Something a person wrote is wrong."""

    code = "usage"
    exit_status = 2


class SettingsError(UsageError):
    """The settings file or the environment is wrong."""

    code = "settings"


class RecipeError(UsageError):
    """The recipe is wrong."""

    code = "recipe"


class DataError(UsageError):
    """A data file, a column or a label is wrong."""

    code = "data"


class BundleError(UsageError):
    """A bundle cannot be used."""

    code = "bundle"


class BundleMissing(BundleError):
    """There is no bundle at that place."""

    code = "bundle_missing"


class BundleCorrupt(BundleError):
    """A bundle's bytes differ from what its manifest says."""

    code = "bundle_corrupt"


class BundleMismatch(BundleError):
    """Parts of a bundle do not belong together."""

    code = "bundle_mismatch"


class BundleUnsupported(BundleError):
    """This version of Understudy cannot read the bundle."""

    code = "bundle_unsupported"


class RequestError(UnderstudyError):
    """What a client sent cannot be answered."""

    code = "request"


class Malformed(RequestError):
    """The body is not JSON, or JSON that is refused."""

    code = "malformed"


class Invalid(RequestError):
    """The body has the wrong shape, or a value is out of its limits."""

    code = "invalid"


class TooLarge(RequestError):
    """A body or a list is above its limit."""

    code = "too_large"


class Unauthorized(RequestError):
    """No key, or one that is not known."""

    code = "unauthorized"


class UnknownTask(RequestError):
    """No task of that name is served here."""

    code = "unknown_task"


class ServingError(UnderstudyError):
    """The gateway cannot answer now."""

    code = "unavailable"


class Overloaded(ServingError):
    """A bounded queue is full."""

    code = "overloaded"


class Draining(ServingError):
    """The process is on its way out."""

    code = "draining"


class StudentFailed(ServingError):
    """The student raised, or gave numbers that are not finite."""

    code = "student_failed"


class TeacherError(UnderstudyError):
    """The teacher gave no usable answer."""

    code = "teacher"


class TeacherUnavailable(TeacherError):
    """The teacher refused, is down, or is over its bounds."""

    code = "teacher_unavailable"


class TeacherTimeout(TeacherError):
    """The teacher did not answer before the deadline."""

    code = "teacher_timeout"


class StageFailed(UnderstudyError):
    """An offline stage ended without its result."""

    code = "stage_failed"
