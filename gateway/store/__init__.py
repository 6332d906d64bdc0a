"""What is kept: a record of each answer and audit. The only room that speaks SQL."""
