"""Every error that Understudy raises on purpose.

    UnderstudyError
    ├── UsageError             something a person wrote is wrong: exit status 2
    │   ├── SettingsError        understudy.yaml or the environment
    │   ├── RecipeError          recipe.yaml
    │   ├── DataError            a data file, a column, a label
    │   └── BundleError          a bundle that cannot be trusted or understood
    │       ├── BundleMissing      there is no bundle at that place
    │       ├── BundleCorrupt      bytes differ from the manifest, a file is missing or extra
    │       ├── BundleMismatch     parts that do not belong together (tokenizer, shapes)
    │       │   └── BundleGolden     a golden vector that is no number, or that this host misses
    │       ├── BundleUnsupported  a schema version or a feature that this version cannot read
    │       ├── BundleArchive      bytes that are no tar or zip archive, or a damaged one
    │       ├── BundlePath         a name that leads out of the bundle's folder, or into another
    │       ├── BundleLink         a symbolic or a hard link
    │       ├── BundleSpecial      a device, a pipe, a sparse file
    │       ├── BundleDuplicate    a name that stands there twice
    │       ├── BundleFile         a file that no bundle has
    │       ├── BundleBomb         more bytes or entries than a bundle has
    │       ├── BundleGraph        an ONNX file that cannot be read, or is over its bounds
    │       ├── BundleExternalData an ONNX file whose numbers lie in other files
    │       ├── BundleOperator     an ONNX operator that onnxruntime does not bring along
    │       ├── BundleCrashed      the rehearsal ended without a word
    │       ├── BundleSlow         the rehearsal took too long
    │       └── BundleMemory       the rehearsal took too much memory
    ├── RequestError           what a client sent cannot be answered: its own status over HTTP
    │   ├── Malformed            not JSON, or JSON that is refused
    │   ├── Invalid              JSON of the wrong shape, or a value out of its limits
    │   ├── TooLarge             a body or a list above its limit
    │   ├── Unauthorized         no key, or one that is not known
    │   ├── Forbidden            a key that may not do this
    │   ├── Conflict             another change of the same task is under way
    │   ├── NotProved            a candidate that has not shown that it may serve
    │   ├── PromotionFrozen      nobody is promoted until somebody has looked
    │   ├── UnknownTask          no task of that name
    │   └── UnknownRecord        no stored answer of that id
    ├── ServingError           the gateway cannot answer now
    │   ├── Overloaded           a bounded queue is full, or the wait would be too long
    │   ├── DeadlinePassed       the caller's deadline passed before there was an answer
    │   ├── Draining             the process is on its way out
    │   ├── StudentFailed        the student raised, or gave numbers that are not finite
    │   ├── RecordsUnavailable   records.ack is strict, and the record is not committed
    │   ├── LogUnavailable       the log of changes cannot be written, so nothing is changed
    │   └── Unanswered           the teacher could not, and the student may not: nobody answered
    ├── TeacherError           the teacher gave no usable answer
    │   ├── TeacherUnavailable   down, or over its bounds
    │   ├── TeacherTimeout       no answer before the deadline
    │   ├── TeacherGarbled       an answer that cannot be used
    │   ├── TeacherRefused       it says that the request or the key is wrong: no retry helps
    │   ├── TeacherLimited       it takes no more for now (429)
    │   └── BudgetExhausted      the call would cost more than is left
    ├── LogBroken              the log of changes is not as it was written; exit status 1
    └── StageFailed            an offline stage ended without its result; exit status 1

`code` is stable and may be matched by programs; `mend` says what to do about it.
Only gateway/api/problems.py knows which HTTP status an error becomes.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.bill import Billed


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


class BundleGolden(BundleMismatch):
    """A golden vector is no number, or this host gives other numbers."""

    code = "bundle_golden"


class BundleArchive(BundleError):
    """The bytes are no tar or zip archive, or a damaged one."""

    code = "bundle_archive"


class BundlePath(BundleError):
    """A name in an archive leads out of the bundle's folder, or into another."""

    code = "bundle_path"


class BundleLink(BundleError):
    """An archive holds a link."""

    code = "bundle_link"


class BundleSpecial(BundleError):
    """An archive holds a device, a pipe or a sparse file."""

    code = "bundle_special"


class BundleDuplicate(BundleError):
    """A name stands in an archive twice."""

    code = "bundle_duplicate"


class BundleFile(BundleError):
    """An archive holds a file that no bundle has."""

    code = "bundle_file"


class BundleBomb(BundleError):
    """An archive unpacks to more bytes or entries than a bundle has."""

    code = "bundle_bomb"


class BundleGraph(BundleError):
    """An ONNX file cannot be read, or is over its bounds."""

    code = "bundle_graph"


class BundleExternalData(BundleError):
    """Numbers of an ONNX file lie in other files."""

    code = "bundle_external_data"


class BundleOperator(BundleError):
    """An ONNX file needs an operator that onnxruntime does not bring along."""

    code = "bundle_operator"


class BundleCrashed(BundleError):
    """The process that rehearsed a bundle ended without a word."""

    code = "bundle_crashed"


class BundleSlow(BundleError):
    """A bundle's rehearsal took too long."""

    code = "bundle_slow"


class BundleMemory(BundleError):
    """A bundle's rehearsal took too much memory."""

    code = "bundle_memory"


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


class Forbidden(RequestError):
    """The key is known, and may not do this."""

    code = "forbidden"


class Conflict(RequestError):
    """Another change of the same task is under way."""

    code = "conflict"


class NotProved(RequestError):
    """A candidate is not promoted: it has not shown that it may serve."""

    code = "not_proved"


class PromotionFrozen(RequestError):
    """Nobody is promoted: after a rollback somebody has to look first."""

    code = "promotion_frozen"


class UnknownTask(RequestError):
    """No task of that name is served here."""

    code = "unknown_task"


class UnknownRecord(RequestError):
    """No answer of that id is stored here."""

    code = "unknown_record"


class ServingError(UnderstudyError):
    """The gateway cannot answer now."""

    code = "unavailable"


class Overloaded(ServingError):
    """A bounded queue is full, or the wait would be too long. `retry_after` is in seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, mend: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, mend=mend or "send the request again later")
        self.retry_after = retry_after


class DeadlinePassed(ServingError):
    """The caller's deadline passed before there was an answer."""

    code = "deadline_passed"


class Draining(ServingError):
    """The process is on its way out."""

    code = "draining"


class StudentFailed(ServingError):
    """The student raised, or gave numbers that are not finite."""

    code = "student_failed"


class Unanswered(ServingError):
    """The teacher could not answer, and the policy keeps the student's answer back."""

    code = "unanswered"


class RecordsUnavailable(ServingError):
    """No reply goes out without its record, and the record is not committed."""

    code = "records_unavailable"


class LogUnavailable(ServingError):
    """A change is not made without its row in the log, and the log cannot be written."""

    code = "log_unavailable"


class TeacherError(UnderstudyError, Billed):
    """The teacher gave no usable answer. `asked`: the call was begun, so that it may be billed.

    `cost`: micro-USD that it was billed, where the teacher says so. `unpriced`: further calls that
    were begun before it gave up, of which no cost is known.
    """

    code = "teacher"

    def __init__(
        self, message: str, *, mend: str = "", asked: bool = True, cost: int | None = None
    ) -> None:
        super().__init__(message, mend=mend)
        self.asked = asked
        self.cost = cost
        self.unpriced = 0


class TeacherUnavailable(TeacherError):
    """The teacher is down, or over its bounds."""

    code = "teacher_unavailable"


class TeacherTimeout(TeacherError):
    """The teacher did not answer before the deadline."""

    code = "teacher_timeout"


class TeacherGarbled(TeacherError):
    """The teacher's answer cannot be used: it is no answer to what was asked."""

    code = "teacher_garbled"


class TeacherRefused(TeacherError):
    """The teacher says that the request, the key or the model is wrong: asking again is no use.

    `status`: of its reply over HTTP, where there was one. `lasting`: what is refused is not this
    request but every one, such as those of a key that is wrong.
    """

    code = "teacher_refused"

    def __init__(
        self,
        message: str,
        *,
        mend: str = "",
        asked: bool = True,
        cost: int | None = None,
        status: int | None = None,
        lasting: bool = False,
    ) -> None:
        super().__init__(message, mend=mend, asked=asked, cost=cost)
        self.status = status
        self.lasting = lasting


class TeacherLimited(TeacherError):
    """The teacher takes no more for now. `retry_after`: seconds, where it says how long."""

    code = "teacher_limited"

    def __init__(
        self,
        message: str,
        *,
        mend: str = "",
        asked: bool = True,
        cost: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, mend=mend, asked=asked, cost=cost)
        self.retry_after = retry_after


class BudgetExhausted(TeacherError):
    """A call of the teacher would cost more than is left; it was not begun."""

    code = "budget_exhausted"

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message, mend=mend, asked=False)


class LogBroken(UnderstudyError):
    """A row of the log of changes was edited, deleted or inserted."""

    code = "log_broken"


class StageFailed(UnderstudyError):
    """An offline stage ended without its result."""

    code = "stage_failed"
