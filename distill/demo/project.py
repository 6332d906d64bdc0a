"""The demo's project folder: tickets, recipe, settings; what `understudy init` makes for a user."""

from __future__ import annotations

from pathlib import Path

from distill.demo import tickets
from distill.recipe import FILE_NAME
from gateway.settings import FILE

UNLABELLED_SHARE = (
    0.35  # of the tickets: traffic that nobody has labelled, for the teacher to label
)

RECIPE = """\
version: 1
task: tickets
data:
  path: tickets.csv
  unlabelled: traffic.csv
  group_column: customer
  field_columns: [amount]
  heads:
    intent: {kind: choice, column: intent}
    urgency: {kind: choice, column: urgency}
    risk: {kind: flags, column: risk}
  severity:
    intent: {suspected_fraud: 10, legal_threat: 10}
    risk: {fraud: 10, legal: 10}
  split: {calibration: 0.10, certification: 0.20, test: 0.15}
teacher:
  training:
    epochs: 3
    learning_rate: 2.0e-4
    losses: [{name: cross_entropy}]
student:
  max_tokens: 96
  augment: 0
  training:
    epochs: 3
    learning_rate: 5.0e-4
    dropout: 0.0
    losses: [{name: kl, weight: 1.0, temperature: 2.0}, {name: logit_mse, weight: 0.3}]
certificate: {alpha: 0.05, delta: 0.05}
prices: {teacher_usd_per_1000: 2.00, instance_usd_per_hour: 0.10}
seed: %(seed)d
"""

_SETTINGS = """\
version: 1
server: {host: 127.0.0.1, port: 8080}
tasks:
  tickets:
    student: {bundle: bundles/student}
    teacher: {bundle: bundles/teacher}
    policy:
      rules:
        - {name: fraud_or_legal, head: risk, labels: [fraud, legal]}
        - {name: dangerous_intent, head: intent, labels: [suspected_fraud, legal_threat]}
        - {name: names_a_court, text: '(?i)\\b(lawyer|solicitor|attorney|court|lawsuit|sue)\\b'}
        - {name: large_amount, field: amount, above: 1000}
    audit: {share: 0.05}
    # Prices for illustration: what a hosted large model may ask, and two small cores.
    prices: {teacher_usd_per_1000: 2.00, instance_usd_per_hour: 0.10}
records: {path: understudy.db, text: hash}
logging: {level: warning}
"""


def write(folder: Path, *, count: int, seed: int, recipe: str = RECIPE) -> None:
    """Write the demo's files, over those of an earlier start; `recipe` has a place for `seed`."""
    world = tickets.generate(count, seed=seed)
    labelled = round(count * (1 - UNLABELLED_SHARE))
    folder.mkdir(parents=True, exist_ok=True)
    tickets.write_csv(world[:labelled], folder / "tickets.csv")
    tickets.write_csv(world[labelled:], folder / "traffic.csv")
    (folder / FILE_NAME).write_text(recipe % {"seed": seed}, encoding="utf-8")
    (folder / FILE).write_text(_SETTINGS, encoding="utf-8")
