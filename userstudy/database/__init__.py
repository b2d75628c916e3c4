"""Participants and answers: SQLAlchemy's tables, and the migrations that made them."""
