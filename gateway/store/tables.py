"""The tables, as SQLAlchemy Core sees them. How they came to be stands in migrations/.

Only types that SQLite and PostgreSQL share. Money is integer micro-USD, durations are seconds,
times are seconds since the epoch; null is "not known" or "was not asked".
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

# One row an answer. The ids sort by time, so the primary key is also the order of time.
records = Table(
    "records",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("at", Double, nullable=False),
    Column("task", String(120), nullable=False),
    Column("route", String(16), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("detail", Text, nullable=False),
    Column("score", Double),
    Column("familiarity", Double),
    Column("threshold", Double),
    Column("labels", JSON(none_as_null=True)),
    Column("confidences", JSON(none_as_null=True)),
    Column("student_labels", JSON(none_as_null=True)),
    Column("teacher_labels", JSON(none_as_null=True)),
    Column("bundle", String(64)),
    Column("truncated", Boolean, nullable=False),
    Column("text", Text),
    Column("text_sha256", String(64)),
    Column("fields", JSON(none_as_null=True)),
    Column("cost_student", BigInteger),
    Column("cost_teacher", BigInteger),
    Column("cost_avoided", BigInteger),
    Column("queue_s", Double, nullable=False),
    Column("student_s", Double, nullable=False),
    Column("busy_s", Double, nullable=False),
    Column("teacher_s", Double, nullable=False),
    Column("total_s", Double, nullable=False),
    Column("audit_propensity", Double, nullable=False),
    Column("propensity", Double, nullable=False),
    Column("failure", String(64), nullable=False),
    Column("audit_uniform", Double),
    Column("coin", String(16)),
    Column("teacher_scores", JSON(none_as_null=True)),
    Column("auditable", Boolean),
    Index("records_by_task", "task", "id"),
)

# One row an audit: what the teacher says of a confident answer. `at` is the answer's.
audits = Table(
    "audits",
    metadata,
    Column("record", String(36), ForeignKey("records.id"), primary_key=True),
    Column("at", Double, nullable=False),
    Column("teacher_labels", JSON, nullable=False),
    Column("agrees", Boolean, nullable=False),
    Column("cost", BigInteger),
    Column("seconds", Double, nullable=False),
    Column("teacher_scores", JSON(none_as_null=True)),
)

# One row a verdict: what a person says of an answer; of several the last counts. `who` is the name
# of the key that sent it, `by` the person, where the sender says so.
verdicts = Table(
    "verdicts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("at", Double, nullable=False),
    Column("record", String(36), ForeignKey("records.id"), nullable=False),
    Column("who", String(120), nullable=False),
    Column("by", String(120)),
    Column("labels", JSON, nullable=False),
    Column("note", Text, nullable=False),
    Index("verdicts_by_record", "record", "id"),
)

# One row for what a candidate said of one answer. No foreign key: it may be kept where the record
# of its answer was dropped from a full queue. `at` is the answer's; see Comparison for the rest.
# `judged`: what a person says of the answer counts in a trial already.
comparisons = Table(
    "comparisons",
    metadata,
    Column("record", String(36), primary_key=True),
    Column("candidate", String(200), primary_key=True),
    Column("at", Double, nullable=False),
    Column("task", String(120), nullable=False),
    Column("serving", String(64)),
    Column("propensity", Double, nullable=False),
    Column("labels", JSON(none_as_null=True)),
    Column("score", Double),
    Column("margin", Double),
    Column("ranks", JSON(none_as_null=True)),
    Column("escalates", Boolean, nullable=False),
    Column("seconds", Double),
    Column("lapse", String(16)),
    Column("serving_labels", JSON(none_as_null=True)),
    Column("serving_score", Double),
    Column("serving_escalates", Boolean, nullable=False),
    Column("serving_seconds", Double),
    Column("teacher_labels", JSON(none_as_null=True)),
    Column("source", String(16)),
    Column("second_labels", JSON(none_as_null=True)),
    Column("by_chance", Boolean, nullable=False),
    Column("wished", Boolean, nullable=False),
    Column("agrees_serving", Boolean),
    Column("agrees_teacher", Boolean),
    Column("policy", String(64)),
    Column("serving_policy", String(64)),
    Column("judged", Boolean),
    Index("comparisons_by_candidate", "task", "candidate", "record"),
)

# One row for what one process has counted of one candidate on one footing, or for the sum of such
# rows that have ended; see gateway/store/trials.py. `until`: when something was last counted.
trials = Table(
    "trials",
    metadata,
    Column("segment", String(36), primary_key=True),
    Column("task", String(120), nullable=False),
    Column("candidate", String(200), nullable=False),
    Column("began", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("state", JSON, nullable=False),
    Column("slices", JSON(none_as_null=True)),
    Index("trials_by_candidate", "task", "candidate"),
)

# One row a task: it is what the ledger locks. `paced`: microseconds since the epoch, see Standing.
budgets = Table(
    "budgets",
    metadata,
    Column("task", String(120), primary_key=True),
    Column("paced", BigInteger, nullable=False),
)

# What was spent on the teacher in each window, in micro-USD; `start` in seconds since the epoch.
spending = Table(
    "spending",
    metadata,
    Column("task", String(120), primary_key=True),
    Column("window", String(8), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("spent", BigInteger, nullable=False),
)

# One row a call of the teacher that is not settled yet.
reservations = Table(
    "reservations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("task", String(120), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Index("reservations_by_task", "task", "at"),
)

# One row a change of what serves; see gateway/store/changes.py for the hashes. `task` is null where
# a change is of the whole gateway.
changes = Table(
    "changes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("task", String(120)),
    Column("who", String(120), nullable=False),
    Column("what", String(32), nullable=False),
    Column("old", Text),
    Column("new", Text),
    Column("why", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("previous", String(64), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
)

# One row in all: the last change's number and hash. It is what an append locks.
changes_end = Table(
    "changes_end",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
